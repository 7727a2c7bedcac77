"""COCO data sets in a config: mistakes are reported before training."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict

from mae_mm.datasets.configs import LOADERS, datasets_of
from mae_mm.datasets.find import on_disk
from mae_mm.datasets.limits import leaves_folder, read_json
from mae_mm.datasets.pixel_files import image_size

NUM_SIZES = 100  # images of a file whose size is compared with the file's; all of them would take minutes
SLACK = 0.02  # of an image's side, at least 2 px: boxes in real data reach this far beyond it
OUTSIDE_SHARE, CORNER_SHARE = 0.5, 0.2  # tolerated share of boxes outside; of those that would fit as corners
NUMBER, ID = int | float, int | float | str
KEYS = dict(images=dict(id=ID, file_name=str, width=NUMBER, height=NUMBER), categories=dict(id=ID, name=str),
            annotations=dict(id=NUMBER))
BOX = '[x, y, width, height] in pixels'
SEGMENTATION = (
    'polygons [[x1, y1, x2, y2, x3, y3, …], …] in pixels or a run-length code {"size": [height, width], "counts": …} '
    'of the whole image (to train on boxes alone: docs/detection.md, "Boxes alone")')


def coco_datasets(cfg: Config, loader: str) -> list[tuple[ConfigDict, Path]]:
    """The CocoDatasets of a loader, wrapped ones included, each with its annotation file."""
    return [(dataset, Path(dataset.get('data_root') or '', dataset['ann_file']))
            for _, dataset in datasets_of(cfg, loader) if dataset.get('type', '').rsplit('.', 1)[-1] == 'CocoDataset']


def class_heads(model: ConfigDict, key: str = 'model') -> Iterator[tuple[str, ConfigDict]]:
    """Keys and configs of a detector's box and mask heads, one- or two-stage, cascades included."""
    for name in ('roi_head', 'bbox_head', 'mask_head'):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, list | tuple) else [heads]:
            if name != 'roi_head' and 'num_classes' in head:
                yield f'{key}.{name}', head
            yield from class_heads(head, f'{key}.{name}')


def check_loader(cfg: Config, loader: str) -> None:
    """Compare each CocoDataset of a loader with its images, with the heads, and with the evaluator."""
    for dataset, path in coco_datasets(cfg, loader):
        from mmdet.datasets import CocoDataset

        content = read_annotations(path)
        with_masks = any(transform.get('with_mask') for transform in dataset.get('pipeline', []))
        check_annotations(content, path, with_masks)
        for part in ('images', 'annotations') if loader == LOADERS[0] else ('images', ):
            if not content[part]:
                raise ValueError(f'{path} has no {part}')
        names = CocoDataset._load_metainfo(dataset.get('metainfo'))['classes']
        check_categories(content, path, names, dict(class_heads(cfg.model)))
        folder = Path(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img', ''))
        check_images(content['images'], path, folder)
        key = loader.replace('dataloader', 'evaluator')
        evaluators = cfg.get(key) or {}
        for one in evaluators if isinstance(evaluators, list) else [evaluators]:
            if one.get('ann_file') and Path(one['ann_file']).absolute() != path.absolute():
                raise ValueError(
                    f'{key}.ann_file={one["ann_file"]} is not the file that {loader} reads, {path}; the metric would '
                    f'be of other images: --cfg-options {key}.ann_file={path}')


def read_annotations(path: Path) -> dict:
    """Read a COCO file, with valid ids, images and categories; raises a ValueError for anything else."""
    content = read_json(path)
    for name, keys in KEYS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f'{path} is not a COCO annotation file ({name!r} must be a list of {{…}}); expected: '
                '{"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "image_id", '
                '"category_id", "bbox": [x, y, width, height], "area", "segmentation", "iscrowd"}], '
                '"categories": [{"id", "name"}]}')
        for key, kind in keys.items():
            refuse([entry for entry in entries if not _is(entry.get(key), kind)], path,
                   f'{name} have a missing or wrong {key!r}, must be {"a text" if kind is str else "a finite number"}')
        counts = Counter(entry['id'] for entry in entries)
        refuse([key for key, count in counts.items() if count > 1], path, f'ids belong to several {name}')
    return content


def check_annotations(content: dict, path: Path, with_masks: bool) -> None:
    """Check that each annotation belongs to an image and a category, and has what training and pycocotools read."""
    annotations, categories = content['annotations'], {category['id'] for category in content['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}  # pixels

    def has_mask(a: dict) -> bool:  # in form: pycocotools reads coordinates and codes itself
        mask, (width, height) = a['segmentation'], sizes[a['image_id']]
        if isinstance(mask, dict):
            return mask.get('size') == [height, width] and isinstance(mask.get('counts'), str | list)
        return bool(mask or a['iscrowd']) and isinstance(mask, list) and all(isinstance(part, list) for part in mask)

    rules = {
        'image_id': (lambda a: _is(a['image_id'], ID) and a['image_id'] in sizes, 'the id of an image in the file'),
        'category_id': (lambda a: _is(a['category_id'], ID) and a['category_id'] in categories,
                        'the id of a category in the file'),
        'area': (lambda a: _is(a['area'], NUMBER), 'a finite number'),
        'iscrowd': (lambda a: a['iscrowd'] in (0, 1), '0 or 1'),
        'bbox': (lambda a: isinstance(a['bbox'], list) and [_is(x, NUMBER) for x in a['bbox']] == [True] * 4, BOX),
        **({'segmentation': (has_mask, SEGMENTATION)} if with_masks else {})}
    for key, (valid, expected) in rules.items():
        refuse([f'{a["id"]}: {a.get(key)}' for a in annotations if key not in a or not valid(a)], path,
               f'annotations have a missing or wrong {key!r}, must be {expected}')
    if annotations:
        boxes = np.array([a['bbox'] for a in annotations], np.float64)  # (A, 4)
        _check_boxes(boxes, np.array([sizes[a['image_id']] for a in annotations], np.float64), path)


def _check_boxes(boxes: np.ndarray, shapes: np.ndarray, path: Path) -> None:
    """Refuse boxes (A, 4) in another format; `shapes` (A, 2) are the width and height of each one's image in px.

    Single boxes without a pixel, which real data have, are dropped by mmdet.
    """
    start, size = boxes[:, :2], boxes[:, 2:]
    slack = np.maximum(2, SLACK * shapes)
    outside = ((size < 1) | (start < -slack) | (start + size > shapes + slack)).any(1)
    corners = ((start >= -slack) & (size > start) & (size >= 1) & (size <= shapes + slack)).all(1).mean() > 0.95
    if outside.mean() > (CORNER_SHARE if corners else OUTSIDE_SHARE):
        hint = '; these look like corners [x1, y1, x2, y2]' if corners else ''
        refuse([f'{boxes[i].tolist()} in {shapes[i].tolist()}' for i in np.flatnonzero(outside)], path,
               f'boxes are outside their image or smaller than a pixel, of {len(boxes)}; must be {BOX}{hint}')


def check_categories(content: dict, path: Path, names: Sequence[str], heads: dict[str, ConfigDict]) -> None:
    """Check that the file's categories are the data set's classes, in the same order, and that the heads fit.

    mmdet numbers the labels in the file's order whatever the order of `names`, and drops what it does not find.
    """
    in_file = [category['name'] for category in content['categories']]
    fix = (f'the categories of the file are metainfo=dict(classes={tuple(in_file)}) in every data set, and '
           f'num_classes={len(in_file)} in {", ".join(heads)}')
    if [name for name in in_file if name in names] != list(names):
        missing = [name for name in names if name not in in_file]
        raise ValueError(
            f'{path} has the categories {some(in_file)} and the data set the classes {some(names)}: ' + (
                f'{len(missing)} of the {len(names)} classes are missing ({some(missing)})' if missing else
                'in another order, labels would be mixed up') + f'; {fix}')
    for key, head in heads.items():
        if head.num_classes != len(names):
            raise ValueError(
                f'{key}.num_classes={head.num_classes}, but the data set of {path} has {len(names)} classes; {fix}')


def check_images(images: list[dict], path: Path, folder: Path) -> None:
    """Check that all images exist, and that a sample of them has the size that the file gives."""
    names = [image['file_name'] for image in images]
    refuse([name for name in names if leaves_folder(name)], path, f'images are outside {folder}')
    listed = {parent: set(os.listdir(parent)) if parent.is_dir() else set()
              for parent in {(folder / name).parent for name in names}}
    missing = [name for name in names if (folder / name).name not in listed[(folder / name).parent]]
    other_form = any(on_disk(str(folder / name)) != str(folder / name) for name in missing)
    hint = ', or have their accents in another Unicode form there (convmv -f utf-8 -t utf-8 --nfc renames them)'
    refuse(missing, path,
           f'images are missing in {folder} (data_root + data_prefix.img + file_name){hint * other_form}')
    for image in images[::-(-len(images) // NUM_SIZES)]:
        try:
            size = image_size(folder / image['file_name'])
        except OSError as error:
            raise ValueError(f'{folder / image["file_name"]} is not a readable image: {error}') from error
        if size != (image['width'], image['height']):
            raise ValueError(
                f'{path}: {image["file_name"]} has {image["width"]}x{image["height"]} pixels there, but '
                f'{size[0]}x{size[1]} as loaded (EXIF rotation applied); create the file again from the images')


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and (isinstance(value, str) or abs(value) < 1e18)  # False for NaN


def refuse(found: Sequence, path: Path, complaint: str) -> None:
    """Raise a ValueError with the first entries found, if there are any."""
    if found:
        raise ValueError(f'{path}: {complaint} ({some(found)}{f" {len(found)} in all" * (len(found) > 3)})')


def some(names: Sequence) -> str:
    """The first three, shortened."""
    return ', '.join(str(name)[:80] for name in names[:3]) + (', …' if len(names) > 3 else '')
