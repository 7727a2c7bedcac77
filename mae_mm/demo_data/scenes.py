"""A finished scene: picture, label, and what every pixel belongs to."""

from typing import NamedTuple

import cv2
import numpy as np

from mae_mm.demo_data.categories import CATEGORIES
from mae_mm.demo_data.composition import compose
from mae_mm.demo_data.painting import paint

SPLITS = ('train', 'val')
JPEG_QUALITIES = (60, 95)  # lowest and highest


class Instance(NamedTuple):
    """The visible part of one object, or of one crowd of tiny objects."""

    category: int  # index into `categories.CATEGORIES`
    mask: np.ndarray  # (H, W) bool: visible pixels
    is_crowd: bool


class Scene(NamedTuple):
    """A picture with its annotations."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    quality: int  # JPEG quality to store it with
    label: int  # category of the dominant object
    instances: tuple[Instance, ...]
    dominant: int  # index into instances
    pixel_labels: np.ndarray  # (H, W) uint8: 1-based index into `categories.PIXEL_CLASSES`; 0 = unlabelled rim

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]


def rim(regions: np.ndarray) -> np.ndarray:
    """Mark a line one pixel wide where (H, W) regions meet: (H, W) bool."""
    change = np.zeros(regions.shape, bool)
    change[1:] |= regions[1:] != regions[:-1]
    change[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    return change


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Make one scene; it depends on the three arguments only.

    Args:
        seed: of the data set.
        split: 'train' or 'val'; they draw from disjoint random streams and disjoint parts of the photographs.
        index: of the scene in its split; its label is the index modulo the number of categories.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = index % len(CATEGORIES)
    composition = compose(label, rng)
    image = paint(composition, split, rng)

    owner, size = composition.owner, composition.size
    above, below = composition.ground.materials
    labels = len(CATEGORIES) + np.where(composition.ground.below(size, 1) > 0, below, above)
    instances = []
    for position, item in enumerate(composition.items):
        instances.append(Instance(item.category, owner == position, item.is_crowd))
        labels[owner == position] = item.category
    # regions: materials, and each object by itself although a neighbour may be of the same class
    regions = np.where(owner >= 0, len(CATEGORIES) + 100 + owner, labels)
    pixel_labels = np.where(rim(regions), 0, labels + 1).astype(np.uint8)
    quality = int(rng.integers(JPEG_QUALITIES[0], JPEG_QUALITIES[1] + 1))
    return Scene(image, quality, label, tuple(instances), composition.dominant, pixel_labels)


def encode_jpeg(scene: Scene) -> bytes:
    """Compress the picture."""
    ok, data = cv2.imencode('.jpg', scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.quality])
    assert ok
    return data.tobytes()
