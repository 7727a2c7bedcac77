"""Places205, from its official lists."""

import os
from collections.abc import Iterable

from mae_mm.datasets.listed_images import ListedImages, read_labels
from mae_mm.registry import DATASETS

LISTS = 'trainvalsplit_places205'
FOLDER = 'data/vision/torralba/deeplearning/images256'


@DATASETS.register_module()
class Places205(ListedImages):
    """Places205: 2.4 million scenes of 205 classes, laid out as its archives unpack.

    Args:
        data_root: folder that both archives were unpacked in.
        split: 'train' or 'val'. The test list has no labels.
    """

    LAYOUT = f'ROOT/{LISTS}/{{train,val}}_places205.csv and ROOT/{FOLDER}/a/abbey/*.jpg'

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f'split={split!r} is none of train, val')
        super().__init__(ann_file=f'{LISTS}/{split}_places205.csv', data_root=data_root, **kwargs)

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        """Read the list; there is none of class names, which are the folders: a/abbey."""
        listed = list(read_labels(self.found(self.ann_file)))
        names = {label: os.path.dirname(name).partition('/')[2] for name, label in listed}
        classes = [names.get(label, str(label)) for label in range(max(names, default=-1) + 1)]
        return classes, self.found(os.path.join(self.data_root, FOLDER)), listed
