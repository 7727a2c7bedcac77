"""Recognise labelled data of one's own, and split off a test part where there is none.

Everything is found before anything is trained, and all faults are reported in one message.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mae_mm.datasets.layouts import Part, Sample, recognise, refuse
from mae_mm.datasets.split import group_of, stable_hash

TEST_SHARE = 0.2  # of the images, where the data have no test part
SEARCH_SHARE = 0.25  # of the training labels, held out for the search of a setting


class Labelled(NamedTuple):
    """Labelled images with a training and a test part."""

    task: str  # 'classification', 'detection' or 'segmentation'
    layout: str  # what was recognised, in words
    root: str
    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]
    split: str  # where the test part comes from, in words
    annotations: tuple[str, ...] = ()  # COCO files: that of the training part, and that of the test part if it has one

    def __str__(self) -> str:
        """What was found, line by line."""
        names = ', '.join(self.classes[:6]) + ', …' * (len(self.classes) > 6)
        lines = [f'data       {self.root}: {self.layout}',
                 f'task       {self.task}, {len(self.classes)} class{"es" * (len(self.classes) > 1)}: {names}',
                 f'split      {len(self.train)} training and {len(self.test)} test images ({self.split})']
        if self.task == 'classification':
            counts = Counter(sample.label for sample in self.train)
            lines.append(f'per class  {min(counts.values())} to {max(counts.values())} training images')
        return '\n'.join(lines)


def find_labelled(path: str, by: str = 'image', seed: int = 0) -> Labelled:
    """Recognise labelled data, and split off a test part where there is none.

    Args:
        path: a folder; a table (.csv, .tsv) with a path, a label and perhaps a split in each row; a COCO json.
        by: 'image', or 'folder' or 'top-folder' to keep the images of one on one side (patients, videos, flights).
        seed: of the split.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if the data are ambiguous, have no labels, or have faults; the message lists all of them.
    """
    part = recognise(Path(path))
    if part.split:
        sides = part.split
        where = 'as the data have it'
    else:
        sides = _split_off(part, by, seed)
        where = f'{TEST_SHARE:.0%} split off by a hash of the names' + f', by {by}' * (by != 'image')
    train, test = ([sample for sample in part.samples if sides[sample.name] == side] for side in ('train', 'test'))
    _check(part, train, test, by)
    return Labelled(part.task, part.layout, str(part.root), tuple(part.classes), train, test, where, part.annotations)


def strata(task: str, samples: Sequence[Sample]) -> dict[int | None, list[Sample]]:
    """Images by class; for tasks without one class for each image, all of them together."""
    by_class: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label if task == 'classification' else None].append(sample)
    return by_class


def subset(data: Labelled, fraction: float, seed: int) -> list[Sample]:
    """A fraction of the training labels, of each class; a larger fraction holds all of a smaller one."""
    chosen = []
    for members in strata(data.task, data.train).values():
        members = sorted(members, key=lambda sample: stable_hash(sample.name, seed))
        chosen += members[:max(1, math.ceil(fraction * len(members)))]
    return sorted(chosen)


def split_for_search(task: str, samples: Sequence[Sample], seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Hold out a share of each class to choose a setting on; a class of one image is only trained on."""
    fitting, held_out = [], []
    for members in strata(task, samples).values():
        count = min(max(1, round(SEARCH_SHARE * len(members))), len(members) - 1)
        members = sorted(members, key=lambda sample: stable_hash(sample.name, 1_000_003 + seed))
        held_out += members[:count]
        fitting += members[count:]
    if not held_out:  # one image of each class: nothing can be held out, and every setting is as good
        return list(samples), list(samples)
    return sorted(fitting), sorted(held_out)


def _split_off(part: Part, by: str, seed: int) -> dict[str, str]:
    """A test part: of each class (elsewhere of all images) the share with the lowest hashes, at least one image."""
    sides = {}
    # A folder may hold several classes, so it is drawn as a whole.
    for members in strata(part.task if by == 'image' else '', part.samples).values():
        groups: dict[str, list[str]] = defaultdict(list)
        for sample in members:
            groups[group_of(sample.name, by)].append(sample.name)
        count = 0
        for group in sorted(groups, key=lambda group: stable_hash(group, seed)):
            test = count < max(1, round(TEST_SHARE * len(members)))
            sides.update(dict.fromkeys(groups[group], 'test' if test else 'train'))
            count += len(groups[group]) * test
    return sides


def _check(part: Part, train: list[Sample], test: list[Sample], by: str) -> None:
    """Faults of the split, whatever the layout."""
    faults = {}
    by_folders = f'--split-by {by} keeps each folder on one side; use --split-by image, or name a test part'
    if len(part.classes) < 2 and part.task != 'detection':
        faults['fewer than two classes'] = list(part.classes) or ['none']
    if not train or not test:
        fix = ('give each side some in the data' if part.split else 'give more images' if by == 'image' else by_folders)
        faults[f'one side of the split has no images ({fix})'] = [f'training {len(train)}, test {len(test)}']
    elif part.task == 'classification':
        counts = Counter(sample.label for sample in train)
        fix = by_folders if by != 'image' and not part.split else (
            'give the class at least two images, one of them for training, or remove it')
        faults[f'classes without a training image ({fix})'] = [
            name for i, name in enumerate(part.classes) if not counts[i]]
    if part.task == 'classification':
        faults['empty files'] = [sample.name for sample in part.samples
                                 if not os.path.getsize(f'{part.root}/{sample.name}')]
    refuse(part.root, faults)
