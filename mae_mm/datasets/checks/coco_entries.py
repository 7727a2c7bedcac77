"""The entries of a COCO file: what training or pycocotools would stumble over, or drop or take for something else."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from mae_mm.datasets.checks.coco_masks import check_masks

SLACK = 0.02  # of an image's side, at least 2 px: real boxes reach so far beyond it
CORNER_SHARE = 0.2  # of boxes reach further, and nearly all would be fine as corners: they are corners
OUTSIDE_SHARE = 0.5  # of boxes reach further, or have no pixel: whatever they are, they are no COCO boxes
WANTED = 'COCO boxes are [x, y, width, height] in pixels'


def check_entries(content: dict, path: Path, with_masks: bool, training: bool = False) -> None:
    """Every annotation belongs to an image and a category of the file, and has what training needs.

    Single boxes and polygons that show nothing, of which real data has some, are told and no more (mmdet drops boxes).

    Args:
        content: of a COCO file; its images, annotations and categories are lists of dicts.
        with_masks: whether segmentations are read.
        training: whether a file without annotations is refused, too.

    Raises:
        ValueError: naming the file and the first thing that does not fit, with examples and the way out.
        KeyError, TypeError: for an image without a size, or values of a wrong kind.
    """
    images, annotations, categories = content['images'], content['annotations'], content['categories']
    if training and images and not annotations:
        raise ValueError(f'{path} has no annotations, and nothing can be learned from it')
    for name, entries in (('images', images), ('annotations', annotations), ('categories', categories)):
        _check_ids(name, entries, path)
    for key in ('area', 'iscrowd', 'image_id', 'category_id'):
        refuse([a['id'] for a in annotations if key not in a], path, f'annotations have no {key}', 'annotation ids')
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    _check_references('image', 'images', sizes, annotations, path)
    _check_references('category', 'categories', {category['id'] for category in categories}, annotations, path)
    refuse([a['id'] for a in annotations if not isinstance(a.get('bbox'), list) or len(a['bbox']) != 4], path,
           'annotations have no bbox [x, y, width, height]', 'annotation ids')
    refuse([f'{a["id"]}: {a["iscrowd"]!r}' for a in annotations if a['iscrowd'] not in (0, 1)], path,
           'annotations have an iscrowd that is neither 0 nor 1', 'annotation ids')
    if not annotations:
        return
    ids = [a['id'] for a in annotations]
    shapes = np.array([sizes[a['image_id']] for a in annotations], np.float64)  # (A, 2) width, height in px
    boxes = _as_numbers([a['bbox'] for a in annotations])
    areas = _as_numbers([[a['area']] for a in annotations])
    for values, key in ((boxes, 'a bbox'), (areas, 'an area')):
        wrong = np.flatnonzero(~np.isfinite(values).all(1))
        refuse([f'{ids[i]}: {annotations[i][key.split()[1]]!r}' for i in wrong], path,
               f'annotations have {key} that is not of finite numbers', 'annotation ids')
    silent = _check_boxes(boxes, areas[:, 0], shapes, ids, path)
    if with_masks:
        refuse([a['id'] for a in annotations if not a.get('segmentation') and not a['iscrowd']], path,
               'annotations have no segmentation, which a mask head learns from; add them, or train on boxes alone '
               '(docs/detection.md, "Boxes alone")', 'annotation ids')
        faults, empty = check_masks(annotations, shapes)
        refuse([f'{ids[i]}: {fault}' for i, fault in faults], path,
               'annotations have a segmentation that cannot be read; wanted: polygons [[x1, y1, x2, y2, x3, y3, …], …] '
               'in pixels, or a run-length code {"size": [height, width], "counts": …} of the whole image',
               'annotation ids')
        if empty:
            silent.append(f'{len(empty)} annotations have polygons of fewer than three points (or of an odd number of '
                          f'coordinates), or outside their image ({some([ids[i] for i in empty], "annotation ids")})')
    if 0 in ids:
        silent.append('an annotation has the id 0, which pycocotools takes for "not found": number them from 1')
    if silent and os.environ.get('RANK', '0') == '0':
        print_log(f'{path}: {"; ".join(silent)}. Worth a look; it goes on', 'current', logging.WARNING)


def _check_ids(name: str, entries: Sequence[dict], path: Path) -> None:
    """Every entry has an id, a number, of its own; images may have texts, as long as annotations name the same."""
    refuse([i for i, entry in enumerate(entries) if 'id' not in entry], path, f'{name} have no id',
           f'positions in the list "{name}", from 0:')
    if name != 'images':
        refuse([repr(entry['id']) for entry in entries if not isinstance(entry['id'], int | float)], path,
               f'{name} have an id that is no number', 'ids')
    counts = Counter(entry['id'] for entry in entries)
    if len(counts) < len(entries):
        twice = [repr(key) for key, count in counts.items() if count > 1]
        refuse(twice, path, f'ids are those of several {name}; number them anew', 'ids')


def _check_references(name: str, plural: str, known: Collection, annotations: Sequence[dict], path: Path) -> None:
    strays = [a for a in annotations if a[f'{name}_id'] not in known]
    if not strays:
        return
    missing = {a[f'{name}_id'] for a in strays}
    texts = {str(key) for key in known} & {str(key) for key in missing}  # 7 and "7"
    hint = ': ids as text there and as numbers here are not the same; write numbers' if texts else ''
    lacking = some(sorted(map(repr, missing)), f'{name} ids')
    refuse([a['id'] for a in strays], path,
           f'annotations are of {plural} that are not in the file ({lacking}{hint})', 'annotation ids')


def _as_numbers(rows: list[list]) -> np.ndarray:
    """(A, n) float64; what is no number (a text, null, a list) becomes NaN."""
    try:
        array = np.array(rows)
    except ValueError:  # lists of several lengths inside
        array = np.empty(0, object)
    if array.dtype.kind in 'iuf':
        return array.astype(np.float64)
    return np.array([[value if isinstance(value, int | float) else np.nan for value in row] for row in rows], float)


def _check_boxes(boxes: np.ndarray, areas: np.ndarray, shapes: np.ndarray, ids: Sequence, path: Path) -> list[str]:
    """Refuse boxes that are not [x, y, width, height] at large; returns what is to be told of single ones.

    Args:
        boxes: (A, 4) float64, finite.
        areas: (A,) float64, px.
        shapes: (A, 2) float64, width and height of each one's image in px.
    """
    start, size = boxes[:, :2], boxes[:, 2:]
    shown = np.minimum(start + size, shapes) - np.maximum(start, 0)
    absent = (size < 1).any(1) | (shown <= 0).any(1)  # mmdet's rule
    if absent.mean() > OUTSIDE_SHARE:
        raise ValueError(
            f'{path}: {absent.sum()} of {len(boxes)} boxes do not lie in their image with at least one pixel a side '
            f'({_examples(absent, boxes, shapes, ids)}); {WANTED}, not fractions')
    slack = np.maximum(2, SLACK * shapes)
    leaves = ((start < -slack) | (start + size > shapes + slack)).any(1)
    corners = ((start >= -slack) & (size > start) & (size <= shapes + slack)).all(1)
    looks = leaves.mean() > CORNER_SHARE and corners.mean() > 0.95
    if looks or leaves.mean() > OUTSIDE_SHARE:
        raise ValueError(
            f'{path}: {leaves.sum()} of {len(boxes)} boxes reach beyond their image '
            f'({_examples(leaves, boxes, shapes, ids)}); '
            + (f'they look like corners [x1, y1, x2, y2], but {WANTED}: write [x1, y1, x2 - x1, y2 - y1]' if looks else
               f'{WANTED} of the image as "width" and "height" have it'))
    absent |= areas <= 0
    if not absent.any():
        return []
    return [f'{absent.sum()} annotations have a box without a pixel in its image, or no area '
            f'({_examples(absent, boxes, shapes, ids)})']


def _examples(chosen: np.ndarray, boxes: np.ndarray, shapes: np.ndarray, ids: Sequence) -> str:
    return some([f'{ids[i]}: [{", ".join(f"{value:g}" for value in boxes[i])}] in an image of '
                 f'{shapes[i, 0]:g}x{shapes[i, 1]:g}' for i in np.flatnonzero(chosen)], 'annotation ids')


def refuse(found: Sequence, path: Path, complaint: str, what: str = '') -> None:
    """Complain of entries, if there are any.

    Raises:
        ValueError: with the first of them.
    """
    if found:
        raise ValueError(f'{path}: {len(found)} {complaint} ({some(found, what)})')


def some(names: Sequence, what: str = '') -> str:
    """The first three, after what they are."""
    return f'{what} '.lstrip() + ', '.join(map(str, names[:3])) + (', …' if len(names) > 3 else '')
