"""The twelve object categories: combinations of six shapes and six textures, each of which occurs in two categories.

Neither the shape, nor the texture, nor the colour alone determines the category.
"""

from typing import NamedTuple

from mae_mm.demo_data.photos import STUFF


class Category(NamedTuple):
    """A kind of object."""

    shape: str  # a key of `shapes.SHAPES`
    texture: str  # a key of `textures.TEXTURES`

    @property
    def name(self) -> str:
        return f'{self.shape}_{self.texture}'


CATEGORIES = (
    Category('star', 'stripes'),
    Category('star', 'dots'),
    Category('fish', 'dots'),
    Category('fish', 'rings'),
    Category('leaf', 'rings'),
    Category('leaf', 'zigzag'),
    Category('vase', 'zigzag'),
    Category('vase', 'checks'),
    Category('mushroom', 'checks'),
    Category('mushroom', 'patches'),
    Category('gear', 'patches'),
    Category('gear', 'stripes'),
)
# what a pixel can be, in the order of the segmentation labels 1, 2, ...; label 0 is unlabelled, as in ADE20K
PIXEL_CLASSES = tuple(category.name for category in CATEGORIES) + tuple(photo.material for photo in STUFF)
