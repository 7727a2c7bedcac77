"""Labelled images that an official file lists: what INaturalist and Places365 share."""

import os
from collections.abc import Iterable, Iterator

from mmengine.dataset import BaseDataset

from mae_mm.datasets.find import on_disk
from mae_mm.datasets.limits import leaves_folder


class ListedImages(BaseDataset):
    """Base of data sets whose images and labels are listed in a file; a subclass reads the file.

    A sample is `dict(img_path, gt_label, sample_idx)` before the pipeline. `metainfo['classes']` are the names of the
    release unless the config gives others. If a file of the layout, or the first image, is missing, the error shows
    the layout.
    """

    LAYOUT = ''  # of the folder, for messages

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        """The class names in the order of their labels, the folder, and the name and label of each image."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        classes, folder, listed = self.read()
        self._metainfo.setdefault('classes', tuple(classes))
        samples = []
        for name, label in listed:
            if not isinstance(name, str) or leaves_folder(name):
                raise ValueError(f'{self.ann_file}: {name!r} is outside {folder}; list names relative to that folder')
            samples.append(dict(img_path=on_disk(os.path.join(folder, name)), gt_label=label))
        if not samples:
            raise ValueError(f'{self.ann_file or self.data_root} lists no image')
        self.found(samples[0]['img_path'])
        return samples

    def found(self, *candidates: str) -> str:
        """The first path that exists; raises a FileNotFoundError with the layout if none does."""
        for path in candidates:
            if os.path.exists(path):
                return path
        raise FileNotFoundError(
            f'no {" or ".join(os.path.abspath(path) for path in candidates)}\n'
            f'  {type(self).__name__} expects:  {self.LAYOUT}\n'
            '  own data:   --cfg-options {train,val}_dataloader.dataset.data_root=PATH\n'
            '  demo data:  python tools/make_demo_data.py --out data/demo')


def read_labels(path: str) -> Iterator[tuple[str, int]]:
    """The lines 'name label' of a list; raises a ValueError with the number of any other line."""
    with open(path, encoding='utf-8', errors='surrogateescape') as file:  # names are bytes to the file system
        for number, line in enumerate(file, 1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdecimal():
                raise ValueError(f"{path}, line {number}: {line.strip()!r} is not 'path label'")
            yield name, int(label)
