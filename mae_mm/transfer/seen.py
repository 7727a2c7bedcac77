"""Which test images has a start seen before? Copies among its pre-training images, and among the training images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mae_mm.datasets.labelled import Labelled
from mae_mm.datasets.leaks import FILE, Leak, find_leaks, fingerprint, load_fingerprints
from mae_mm.datasets.limits import open_image

MAX_IMAGES = 20_000  # labelled images that are compared; more would take minutes
REPEATED = 0.5  # share of the test images above which the test part is no test
FEWEST = 10  # test images that may be left
SHOWN = 8  # pairs with a picture, for each source
SIDE = 160  # pixels of these pictures
TRAINING = 'the training images'


class Seen(NamedTuple):
    """What is known about copies of test images."""

    leaks: dict[str, list[Leak]]  # by what the test images were compared with
    unknown: list[str]  # what they were not compared with, and why


def find_seen(data: Labelled, checkpoints: Sequence[str]) -> Seen:
    """Look for copies of test images among the training images, and in the pre-training of each checkpoint.

    A pre-training can be compared if its `fingerprints.npz` lies beside the checkpoint.

    Raises:
        ValueError: if the test part repeats the training part.
    """
    sources = [f'the pre-training of {path}' for path in checkpoints]
    if (count := len(data.train) + len(data.test)) > MAX_IMAGES:
        return Seen({}, [f'{source} ({count:,} images are too many)' for source in (TRAINING, *sources)])
    train, test = (fingerprint([f'{data.root}/{sample.name}' for sample in samples], desc=f'copies: {side} images')
                   for side, samples in dict(training=data.train, test=data.test).items())
    unreadable = {side: len(samples) - len(found.names) for side, samples, found in (
        ('training', data.train, train), ('test', data.test, test))}
    leaks = {TRAINING: find_leaks(test, train)}
    unknown = [f'{count} {side} images (they cannot be read)' for side, count in unreadable.items() if count]
    for path, source in zip(checkpoints, sources, strict=True):
        if (file := Path(path).parent / FILE).exists():
            known = load_fingerprints(file)
            leaks |= {source: find_leaks(test, known)} if known.names else {}
            unknown += [] if known.names else [f'{source} ({FILE} beside it has no images)']
        else:
            unknown.append(f'{source} (no {FILE} beside it)')
    if len(leaks[TRAINING]) > REPEATED * len(data.test):
        leak = leaks[TRAINING][0]
        raise ValueError(
            f'{len(leaks[TRAINING])} of {len(data.test)} test images are copies of training images, for example '
            f'{leak.test} of {leak.train}: the test part must hold other images')
    return Seen(leaks, unknown)


def leave_out(data: Labelled, seen: Seen) -> Labelled:
    """The data without the test images that have copies.

    Raises:
        ValueError: if hardly any are left.
    """
    names = {leak.test for leaks in seen.leaks.values() for leak in leaks}
    rest = [sample for sample in data.test if f'{data.root}/{sample.name}' not in names]
    if len(rest) < FEWEST:
        raise ValueError(
            f'--exclude-leaks leaves {len(rest)} of {len(data.test)} test images: the others have copies among the '
            'images of training or pre-training; give test images that were not trained on')
    return data._replace(test=rest)


def describe(seen: Seen, left_out: bool) -> list[str]:
    """A sentence for each source that has copies, and about those that were or were not compared."""
    end = 'left out' if left_out else 'their results may be too good; --exclude-leaks leaves them out'
    lines = [f'Copies of {len(leaks)} test images are among {source}, for example {leaks[0].train} of {leaks[0].test} '
             f'({leaks[0].how}): {end}.' for source, leaks in seen.leaks.items() if leaks]
    if clean := [source for source, leaks in seen.leaks.items() if not leaks]:
        lines.append(f'No test image has a copy among {", ".join(clean)}.')
    return lines + [f'Not compared: {", ".join(seen.unknown)}.'] * bool(seen.unknown)


def draw_pairs(seen: Seen, folder: Path) -> list[str]:
    """Pictures of test images, each beside its copy where that can be read."""
    files = []
    for leak in (leak for leaks in seen.leaks.values() for leak in leaks[:SHOWN]):
        pictures = []
        for path in (leak.test, leak.train):
            try:
                pictures.append(open_image(path).convert('RGB').resize((SIDE, SIDE)))
            except (OSError, ValueError):  # moved since, or inside a tar
                pictures.append(Image.new('RGB', (SIDE, SIDE), 'lightgray'))
        pair = Image.new('RGB', (2 * SIDE + 4, SIDE), 'white')
        for number, picture in enumerate(pictures):
            pair.paste(picture, (number * (SIDE + 4), 0))
        folder.mkdir(parents=True, exist_ok=True)
        pair.save(folder / f'{len(files)}.png')
        files.append(str(folder / f'{len(files)}.png'))
    return files
