"""Splits that depend on nothing but names: the same on every machine, in every run."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence


def stable_hash(text: str, seed: int = 0) -> int:
    """A number in [0, 2^64) that depends on its arguments alone."""
    digest = hashlib.blake2b(f'{seed}/{text}'.encode(errors='surrogateescape'), digest_size=8).digest()
    return int.from_bytes(digest, 'big')


def group_of(name: str, by: str) -> str:
    """What stays on one side of a split: the image, all images of its folder, or of its topmost folder."""
    return {'image': name, 'folder': os.path.dirname(name), 'top-folder': name.split('/')[0]}[by]


def hold_out(
    names: Sequence[str], by: str = 'image', share: float = 0.02, at_least: int = 32, at_most: int = 5000,
) -> tuple[list[str], list[str]]:
    """Split unlabelled images: those with the lowest hashes are held out, or folders of them (see `group_of`).

    Args:
        names: paths relative to the data folder.
        share: fraction to hold out, within `at_least` and `at_most` images.

    Returns:
        The training and the held-out names, both in the given order.

    Raises:
        ValueError: if the images, or the folders, are too few for two sides.
    """
    want = min(max(round(share * len(names)), at_least), at_most)
    sizes = Counter(group_of(name, by) for name in names)
    held, count = set(), 0
    for group in sorted(sizes, key=stable_hash):
        if count >= want:
            break
        held.add(group)
        count += sizes[group]
    if len(names) - count < want:
        fault, fix = f'{len(names)} images are too few to hold out {want} and train on as many', 'give more images'
        if by != 'image':
            fault = (f'--split-by {by} holds out whole folders (here {len(sizes)} in all), which leaves '
                     f'{len(names) - count} of {len(names)} images for training, fewer than {want}')
            fix = 'use --split-by image'
        raise ValueError(f'{fault}; {fix}, or name held-out images: --val-data PATH')
    sides = {group: group in held for group in sizes}
    return ([name for name in names if not sides[group_of(name, by)]],
            [name for name in names if sides[group_of(name, by)]])
