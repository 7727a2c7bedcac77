"""Which test images has a start seen before? Copies among its pre-training images, and among the training images."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mae_mm.datasets.labelled import Labelled
from mae_mm.datasets.leaks import FILE, Leak, find_leaks, fingerprint, load_fingerprints
from mae_mm.datasets.limits import open_image

MAX_IMAGES = 20_000  # labelled images that are compared; more would take minutes
REPEATED = 0.5  # share of the test images above which the test part is no test
SHOWN = 8  # pairs with a picture, for each source
SIDE = 160  # pixels of these pictures
TRAINING = 'the training images'


def find_seen(data: Labelled, checkpoints: Sequence[str]) -> dict[str, list[Leak]]:
    """Copies of test images, by where they are: the training images, or the pre-training of a checkpoint.

    A checkpoint is compared if `fingerprints.npz` of its pre-training lies beside it.

    Raises:
        ValueError: if the test part repeats the training part.
    """
    if len(data.train) + len(data.test) > MAX_IMAGES:
        return {}
    train, test = (fingerprint([f'{data.root}/{sample.name}' for sample in samples], desc=f'copies: {side} images')
                   for side, samples in dict(training=data.train, test=data.test).items())
    sources = {TRAINING: train}
    for path in checkpoints:
        if (file := Path(path).parent / FILE).exists():
            sources[f'the pre-training of {path}'] = load_fingerprints(file)
    seen = {source: find_leaks(test, prints) for source, prints in sources.items()}
    if len(seen[TRAINING]) > REPEATED * len(data.test):
        leak = seen[TRAINING][0]
        raise ValueError(
            f'{len(seen[TRAINING])} of {len(data.test)} test images are copies of training images, for example '
            f'{leak.test} of {leak.train}: the test part must hold other images')
    return seen


def leave_out(data: Labelled, seen: dict[str, list[Leak]]) -> Labelled:
    """The data without the test images that have copies."""
    names = {leak.test for leaks in seen.values() for leak in leaks}
    return data._replace(test=[sample for sample in data.test if f'{data.root}/{sample.name}' not in names])


def describe(seen: dict[str, list[Leak]], left_out: bool) -> list[str]:
    """A sentence for each source that has copies."""
    end = 'left out' if left_out else 'their results may be too good; --exclude-leaks leaves them out'
    return [f'{len(leaks)} test images have copies among {source}, for example {leaks[0].test} of {leaks[0].train} '
            f'({leaks[0].how}): {end}.' for source, leaks in seen.items() if leaks]


def draw_pairs(seen: dict[str, list[Leak]], folder: Path) -> list[str]:
    """Pictures of test images, each beside its copy where that can be read."""
    files = []
    for leak in (leak for leaks in seen.values() for leak in leaks[:SHOWN]):
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
