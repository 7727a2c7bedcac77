"""COCO annotation files: entries that training or pycocotools would fail on, drop, or misread."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

SLACK = 0.02  # of an image's side, at least 2 px: boxes in real data reach this far beyond it
CORNER_SHARE = 0.2  # of boxes reach further, and nearly all would fit as corners: they are corners
OUTSIDE_SHARE = 0.5  # of boxes reach further, or have no pixel: they are not COCO boxes
BOX = 'COCO boxes are [x, y, width, height] in pixels'
SEGMENTATION = (
    'a segmentation must be polygons [[x1, y1, x2, y2, x3, y3, …], …] in pixels or a run-length code '
    '{"size": [height, width], "counts": …} of the whole image')


def read_annotations(path: Path) -> dict:
    """Read a COCO file as pycocotools does.

    Raises:
        ValueError: if it is not valid JSON, or does not have COCO's layout.
    """
    try:
        with open(path) as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error
    keys = ('images', 'annotations', 'categories')
    lists = [content.get(key) for key in keys] if isinstance(content, dict) else [None]
    if not all(isinstance(one, list) and all(isinstance(entry, dict) for entry in one) for one in lists):
        raise ValueError(
            f'{path} is not a COCO annotation file; expected: '
            '{"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "image_id", "category_id", '
            '"bbox": [x, y, w, h] in pixels, "area", "segmentation", "iscrowd"}], "categories": [{"id", "name"}]}')
    return content


def check_entries(content: dict, path: Path, with_masks: bool, training: bool = False) -> None:
    """Check that every annotation belongs to an image and a category of the file, and has what training needs.

    Single boxes without a pixel, of which real data have some (mmdet drops them), only cause a warning.

    Args:
        content: from `read_annotations`.
        path: for messages.
        with_masks: whether segmentations are loaded.
        training: whether a file without annotations is an error.

    Raises:
        ValueError: for the first kind of mistake, with examples and how to fix it.
        KeyError, TypeError, OverflowError: for missing keys, and values of a wrong type.
    """
    images, annotations, categories = content['images'], content['annotations'], content['categories']
    if training and images and not annotations:
        raise ValueError(f'{path} has no annotations to train on')
    for name in ('images', 'annotations', 'categories'):
        counts = Counter(entry['id'] for entry in content[name])
        refuse([repr(key) for key, count in counts.items() if count > 1], path, f'ids belong to several {name}', 'ids')
    for key in ('area', 'iscrowd', 'bbox', 'image_id', 'category_id'):
        refuse([a['id'] for a in annotations if key not in a], path, f'annotations have no {key}')
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    for article, name, known in (('an', 'image_id', sizes), ('a', 'category_id', {c['id'] for c in categories})):
        refuse([f'{a["id"]}: {a[name]!r}' for a in annotations if a[name] not in known], path,
               f'annotations have {article} {name} that is not in the file')
    refuse([f'{a["id"]}: {a["iscrowd"]!r}' for a in annotations if a['iscrowd'] not in (0, 1)], path,
           'annotations have an iscrowd other than 0 or 1')
    refuse([f'{a["id"]}: {a["bbox"]!r}' for a in annotations
            if not isinstance(a['bbox'], list) or len(a['bbox']) != 4], path, f'annotations have a wrong bbox; {BOX}')
    if not annotations:
        return
    ids = _numbers([a['id'] for a in annotations], annotations, 'id', path)
    shapes = np.array([sizes[a['image_id']] for a in annotations], np.float64)  # (A, 2) width, height in px
    boxes = _numbers([a['bbox'] for a in annotations], annotations, 'bbox', path)  # (A, 4)
    areas = _numbers([a['area'] for a in annotations], annotations, 'area', path)
    warnings = _check_boxes(boxes, areas, shapes, [a['id'] for a in annotations], path)
    if with_masks:
        refuse([a['id'] for a in annotations if not a.get('segmentation') and not a['iscrowd']], path,
               'annotations have no segmentation, which a mask head learns from; add them, or train on boxes alone '
               '(docs/detection.md, "Boxes alone")')
        refuse([f'{a["id"]}: {str(a["segmentation"])[:60]}' for a, (width, height) in zip(
            annotations, shapes.tolist(), strict=True) if not _is_mask(a.get('segmentation'), height, width)], path,
            f'annotations have a wrong segmentation; {SEGMENTATION}')
    if not ids.all():
        warnings.append('an annotation has the id 0, which pycocotools takes for "not found": number them from 1')
    if warnings and os.environ.get('RANK', '0') == '0':
        print_log(f'{path}: {"; ".join(warnings)}', 'current', logging.WARNING)


def _numbers(values: list, annotations: list[dict], key: str, path: Path) -> np.ndarray:
    """float64 array of the values of a key, which must be finite numbers."""
    try:
        array = np.array(values)
    except ValueError:  # lists of several lengths inside
        array = np.array(None)
    if array.dtype.kind not in 'iuf' or not np.isfinite(array).all():
        refuse([f'{a["id"]}: {a[key]!r}' for a in annotations if not all(
            isinstance(value, int | float) and abs(value) < 1e18
            for value in (a[key] if isinstance(a[key], list) else [a[key]]))],
            path, f'annotations have a value of {key!r} that is not a finite number')
    return array.astype(np.float64)


def _check_boxes(boxes: np.ndarray, areas: np.ndarray, shapes: np.ndarray, ids: Sequence, path: Path) -> list[str]:
    """Refuse boxes in another format than [x, y, width, height]; returns warnings about single ones.

    Args:
        boxes: (A, 4) float64.
        areas: (A,) float64, px.
        shapes: (A, 2) float64, width and height of each one's image in px.
    """
    def examples(chosen: np.ndarray) -> str:
        return some([f'{ids[i]}: {boxes[i].tolist()} in an image of {shapes[i].tolist()}'
                     for i in np.flatnonzero(chosen)[:4]], 'annotation ids')

    start, size = boxes[:, :2], boxes[:, 2:]
    shown = np.minimum(start + size, shapes) - np.maximum(start, 0)
    absent = (size < 1).any(1) | (shown <= 0).any(1)  # mmdet's rule
    if absent.mean() > OUTSIDE_SHARE:
        raise ValueError(
            f'{path}: {absent.sum()} of {len(boxes)} boxes cover no pixel of their image ({examples(absent)}); {BOX}, '
            'not fractions')
    slack = np.maximum(2, SLACK * shapes)
    leaves = ((start < -slack) | (start + size > shapes + slack)).any(1)
    corners = ((start >= -slack) & (size > start) & (size <= shapes + slack)).all(1).mean() > 0.95
    if leaves.mean() > (CORNER_SHARE if corners else OUTSIDE_SHARE):
        raise ValueError(
            f'{path}: {leaves.sum()} of {len(boxes)} boxes reach beyond their image ({examples(leaves)}); {BOX} '
            + ('but these look like corners [x1, y1, x2, y2]: write [x1, y1, x2 - x1, y2 - y1]' if corners else
               'of the image with the "width" and "height" of the file'))
    absent |= areas <= 0
    return [f'{absent.sum()} annotations have a box without a pixel in its image, or no area ({examples(absent)})'
            ] if absent.any() else []


def _is_mask(mask: object, height: float, width: float) -> bool:
    """Whether a segmentation has the form of polygons or of a run-length code; pycocotools reads the code itself."""
    if isinstance(mask, dict):
        return mask.get('size') == [height, width] and isinstance(mask.get('counts'), str | list)
    return not mask or (isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask))


def refuse(found: Sequence, path: Path, complaint: str, what: str = 'annotation ids') -> None:
    """Raise a ValueError with the first entries found, if there are any."""
    if found:
        raise ValueError(f'{path}: {len(found)} {complaint} ({some(found, what)})')


def some(names: Sequence, what: str) -> str:
    """The first three, after what they are."""
    return f'{what} '.lstrip() + ', '.join(map(str, names[:3])) + (', …' if len(names) > 3 else '')
