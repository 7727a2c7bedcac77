"""Places365-Standard, from its official lists."""

import os
from collections.abc import Iterable

from mae_mm.datasets.listed_images import ListedImages, read_labels
from mae_mm.registry import DATASETS

LISTS = dict(train='places365_train_standard.txt', val='places365_val.txt')


@DATASETS.register_module()
class Places365(ListedImages):
    """Places365-Standard: 1.8 million scenes of 365 classes, laid out as its archives unpack.

    Args:
        small: whether to read the images of 256 x 256 pixels, or those of the original aspect ratio (short side 512).
    """

    LAYOUT = (
        'ROOT/places365_{train_standard,val}.txt, ROOT/categories_places365.txt, and of 256-px images '
        'ROOT/data_256/a/airfield/*.jpg, ROOT/val_256/*.jpg, or of large ones ROOT/data_large/…, ROOT/val_large/…')

    def __init__(self, data_root: str, split: str = 'train', small: bool = True, **kwargs) -> None:
        if split not in LISTS:
            raise ValueError(f'split={split!r} must be one of {", ".join(LISTS)}')
        folder = f'{"data" if split == "train" else "val"}_{"256" if small else "large"}'
        self.folders = (folder, f'{folder}_standard')  # as the archives unpack, and as torchvision renames them
        super().__init__(ann_file=LISTS[split], data_root=data_root, **kwargs)

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        # Names in the train list start with a slash, which is not the file system's root.
        names = self.found(os.path.join(self.data_root, 'categories_places365.txt'))
        categories = sorted(read_labels(names), key=lambda category: category[1])
        labels = [label for _, label in categories]
        listed = [(name.lstrip('/'), label) for name, label in read_labels(self.found(self.ann_file))]
        if labels != list(range(len(labels))) or max((label for _, label in listed), default=0) >= len(labels):
            raise ValueError(f'{names} must number its classes from 0, and list those of {self.ann_file}')
        folder = self.found(*(os.path.join(self.data_root, folder) for folder in self.folders))
        return [name.lstrip('/').partition('/')[2] for name, _ in categories], folder, listed
