"""Segmentations of a COCO file, polygons and run-length codes, looked at before mmdet and pycocotools read them."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

CHUNK = 1000  # annotations whose coordinates are in memory as NumPy arrays at a time
MAX_GROUPS = 6  # characters of a number in a run-length code: 30 bits


def check_masks(annotations: Sequence[dict], shapes: np.ndarray) -> tuple[list[tuple[int, str]], list[int]]:
    """Look at the segmentations that annotations have.

    Args:
        annotations: A of them; those without a segmentation are passed over.
        shapes: (A, 2) float64, width and height of each one's image in px.

    Returns:
        The positions of those that cannot be read, with the reason; and of those with a polygon that shows nothing:
        of fewer than three points (pycocotools takes four numbers for a box), or outside its image.
    """
    faults, empty = [], []
    for start in range(0, len(annotations), CHUNK):
        polygons, owners, codes = [], [], []
        for i, annotation in enumerate(annotations[start:start + CHUNK], start):
            mask = annotation.get('segmentation')
            if isinstance(mask, dict):
                codes.append(i)
            elif mask and not (isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask)):
                faults.append((i, 'neither a list of polygons, each a list, nor a run-length code'))
            elif mask:
                polygons += mask
                owners += [i] * len(mask)
        if not _all_fit([annotations[i]['segmentation'] for i in codes], shapes[codes]):
            for i in codes:  # one by one, for the reason
                try:
                    check_rle(annotations[i]['segmentation'], *map(int, shapes[i]))
                except (ValueError, TypeError) as error:
                    faults.append((i, str(error)))
        wrong, outside = _check_polygons(polygons, shapes[owners])
        faults += [(owners[k], 'coordinates that are not finite numbers') for k in wrong]
        empty += [owners[k] for k in outside]
    return sorted(dict(faults).items()), sorted(set(empty))


def _check_polygons(polygons: Sequence[list], shapes: np.ndarray) -> tuple[list[int], list[int]]:
    """Positions of P polygons with values that are no finite numbers, and of those that show nothing.

    Args:
        shapes: (P, 2) float64, width and height of the image in px.
    """
    lengths = np.array([len(polygon) for polygon in polygons], np.int64)
    flat = np.array(list(chain.from_iterable(polygons)) if len(polygons) else [], None)
    if flat.dtype.kind not in 'iuf' or flat.ndim != 1 or not np.isfinite(flat).all():
        wrong = [k for k, polygon in enumerate(polygons) if not all(
            isinstance(value, int | float) and np.isfinite(value) for value in polygon)]
        return wrong, []
    usable = (lengths >= 6) & (lengths % 2 == 0)
    points = flat[np.repeat(usable, lengths)].reshape(-1, 2)  # of the usable ones, one after the other
    nothing = ~usable
    if usable.any():
        starts = np.concatenate([[0], np.cumsum(lengths[usable] // 2)[:-1]])
        low, high = (extreme.reduceat(points, starts, axis=0) for extreme in (np.minimum, np.maximum))
        nothing[usable] = ((high <= 0) | (low >= shapes[usable])).any(1)
    return [], np.flatnonzero(nothing).tolist()


def _all_fit(masks: Sequence[dict], shapes: np.ndarray) -> bool:
    """Whether run-length codes, all of them compressed, are those of their images; faster than one by one."""
    if not masks:
        return True
    if not all(isinstance(mask.get('counts'), str) for mask in masks) or any(
            mask.get('size') != [height, width] for mask, (width, height) in zip(masks, shapes.tolist(), strict=True)):
        return False
    try:
        runs, first = read_counts([mask['counts'] for mask in masks])
    except ValueError:
        return False
    return (runs >= 0).all() and (np.add.reduceat(runs, first) == shapes.prod(1)).all()


def check_rle(mask: dict, width: int, height: int) -> None:
    """Refuse a run-length code that is not one of an image of this size; pycocotools would read on behind its end.

    Raises:
        ValueError: with the reason.
    """
    size, counts = mask.get('size'), mask.get('counts')
    if size != [height, width]:
        raise ValueError(f'size {size} of an image of [{height}, {width}] (height, width)')
    if isinstance(counts, str):
        counts = read_counts([counts])[0]
    elif not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError('counts are neither a text nor a list of whole numbers')
    total = int(sum(counts)) if isinstance(counts, list) else int(counts.sum())
    if min(counts, default=0) < 0 or total != width * height:
        raise ValueError(f'counts make {total} pixels of {width}x{height} = {width * height}, or some are negative')


def read_counts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the runs in T compressed codes, one after the other.

    A character has 5 bits of a number, lowest first, and says with a sixth (32) whether more follow; the fifth bit of
    the last is the sign. From the fourth number on they are differences to the last but one (pycocotools, maskApi.c).

    Returns:
        (runs,) int64, and (T,) int64, the position of each text's first one.

    Raises:
        ValueError: if any is no such code.
    """
    ends = np.cumsum([len(text) for text in texts]) - 1
    code = np.frombuffer(''.join(texts).encode('latin-1', 'replace'), np.uint8).astype(np.int64) - 48
    if not all(texts) or code.min() < 0 or code.max() > 63 or (code[ends] & 32).any():
        raise ValueError('counts have a character that no run-length code has, or end inside a number')
    last = np.flatnonzero(code < 32)
    starts = np.concatenate([[0], last[:-1] + 1])
    groups = last - starts + 1
    if groups.max() > MAX_GROUPS + 1:
        raise ValueError('counts have a number that no image needs')
    place = np.arange(code.size) - np.repeat(starts, groups)
    values = np.add.reduceat((code & 31) << (5 * place), starts)
    values -= np.where(code[last] & 16, 1 << (5 * groups), 0)
    behind = np.searchsorted(last, ends) + 1  # numbers up to the end of each text
    first = np.concatenate([[0], behind[:-1]])
    length = behind - first
    position = np.arange(values.size) - np.repeat(first, length)
    runs = np.where(position == 0, values, 0)
    for chosen in (position % 2 == 1, (position % 2 == 0) & (position > 0)):
        sums = np.cumsum(np.where(chosen, values, 0))
        before = sums[first]  # a text's own first number is never among those chosen
        runs += np.where(chosen, sums - np.repeat(before, length), 0)
    return runs, first
