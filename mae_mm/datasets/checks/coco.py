"""COCO-format annotations: classes taken from the file when asked; what does not fit is said before training."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mae_mm.datasets.checks.coco_entries import check_entries, refuse, some
from mae_mm.datasets.limits import entries, leaves_folder, open_image, read_json

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
NUM_SIZES = 100  # images of a data set whose size is compared with the file's; all of them would take minutes
PALETTE_SIZE = 80  # colours of mmdet's COCO palette
USE_FILE = "the classes of the file: --cfg-options classes=json, or classes = 'json' in the config"
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap height and width when the image is loaded


def coco_datasets(dataset: ConfigDict | None) -> Iterator[ConfigDict]:
    """Configs of type CocoDataset: the data set's own, or those that it wraps."""
    if dataset is None:
        return
    if dataset.get('type', '').rsplit('.', 1)[-1] == 'CocoDataset':
        yield dataset
    for inner in [dataset.get('dataset'), *dataset.get('datasets', [])]:
        yield from coco_datasets(inner)


def annotation_path(dataset: ConfigDict) -> Path:
    """Where a data set's annotations are."""
    return Path(dataset.get('data_root') or '', dataset['ann_file'])


def adopt_classes(cfg: Config) -> None:
    """Resolve the top-level key `classes`: a list of names, or 'json' for the categories of the training file.

    The names go into every CocoDataset, their number into every box and mask head, and the key goes away; it stays only
    where the training file is not there (`check_data` of launch says so).

    Raises:
        ValueError: if the file cannot be read, or `classes` is something else.
    """
    names = cfg.get('classes')
    datasets = [one for key in LOADERS for one in coco_datasets((cfg.get(key) or {}).get('dataset'))]
    if names is None or not datasets:
        return
    if names == 'json':
        path = annotation_path(datasets[0])
        if not path.is_file():
            return
        names = [category.get('name') for category in read_annotations(path)['categories']]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f'{path}: a category has no name, or one that is no text ({some(names)})')
    elif isinstance(names, str):
        raise ValueError(f"classes={names!r} is neither 'json' nor a list of names")
    for dataset in datasets:
        dataset.metainfo = dict(classes=tuple(names))
        if len(names) > PALETTE_SIZE:
            dataset.metainfo.palette = 'random'
    for _, head in class_heads(cfg.model):
        head.num_classes = len(names)
    cfg.pop('classes')


def class_heads(model: ConfigDict, key: str = 'model') -> Iterator[tuple[str, ConfigDict]]:
    """Box and mask heads of a detector, one- or two-stage, cascades included, each with its place in the config."""
    for name in ('roi_head', 'bbox_head', 'mask_head'):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, list | tuple) else [heads]:
            if name != 'roi_head' and 'num_classes' in head:
                yield f'{key}.{name}', head
            yield from class_heads(head, f'{key}.{name}')


def read_annotations(path: Path) -> dict:
    """Parse a COCO file.

    Raises:
        ValueError: if it is no json, none that pycocotools reads, or not one of COCO's layout.
    """
    with open(path, 'rb') as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding != 'utf-8':
        raise ValueError(
            f'{path} is written in {encoding} with a byte order mark, which pycocotools does not read; save it as '
            "UTF-8 without BOM (an editor's \"UTF-8\", not \"UTF-8 with BOM\" or \"Unicode\")")
    content = read_json(path)
    missing = [key for key in ('images', 'annotations', 'categories')
               if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(
            f'{path} is no COCO annotation file: it has no list of {", ".join(missing)}; wanted: '
            '{"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "image_id", "category_id", '
            '"bbox": [x, y, w, h] in pixels, "area", "segmentation", "iscrowd"}], "categories": [{"id", "name"}]}')
    for key in ('images', 'annotations', 'categories'):
        entries(content, key, path)
    return content


def check_loader(cfg: Config, loader: str) -> None:
    """Compare each CocoDataset of a loader with its images, with the heads, and with the evaluator.

    Raises:
        ValueError: naming the first thing that does not fit, with examples and the way out.
        FileNotFoundError: if `classes` are those of a training file that is not there.
    """
    for dataset in coco_datasets((cfg.get(loader) or {}).get('dataset')):
        if cfg.get('classes') == 'json':
            raise FileNotFoundError(
                f"classes='json' means the categories of the training annotations {_training_file(cfg)}, which are not "
                "there; write the names: classes=['cat', 'dog']")
        path = annotation_path(dataset)
        content = read_annotations(path)
        folder = Path(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img', ''))
        try:
            check_entries(content, path, with_masks=_loads_masks(dataset), training=loader == 'train_dataloader')
            check_categories(content, path, class_names(dataset), dict(class_heads(cfg.model)), _training_file(cfg))
            check_images(content['images'], path, folder)
        except KeyError as error:
            raise ValueError(f'{path}: an image, annotation or category has no {error}') from error
        except (TypeError, OverflowError) as error:
            raise ValueError(f'{path}: an image, annotation or category has a value of the wrong kind: {error}'
                             ) from error
        evaluator = cfg.get(loader.replace('dataloader', 'evaluator')) or {}
        for one in evaluator if isinstance(evaluator, list) else [evaluator]:
            if one.get('ann_file') and Path(one['ann_file']).absolute() != path.absolute():
                key = loader.replace('dataloader', 'evaluator')
                raise ValueError(
                    f'{key}.ann_file={one["ann_file"]} is not the file that {loader} reads, {path}; the metric would '
                    f'be of other images: --cfg-options {key}.ann_file={path}')


def check_categories(
    content: dict, path: Path, names: Sequence[str], heads: dict[str, ConfigDict], training_file: Path | None = None,
) -> None:
    """The file's categories are the data set's classes, in their order, and the heads have as many.

    mmdet numbers the labels in the file's order whatever the order of `names`, and drops what it does not find.

    Args:
        training_file: whose classes they may be.

    Raises:
        ValueError: as `check_loader`.
    """
    in_file = [category['name'] for category in content['categories']]
    out = _way_out(names, path, training_file) if in_file != list(names) else USE_FILE
    if twice := [name for name, count in Counter(in_file).items() if count > 1]:
        raise ValueError(f'{path} has several categories named {twice[0]!r}')
    if missing := [name for name in names if name not in in_file]:
        raise ValueError(
            f'{path} has {len(in_file)} categories ({some(in_file)}), and {len(missing)} of the {len(names)} classes '
            f'of the data set are not among them ({some(missing)}); {out}')
    if [name for name in in_file if name in names] != list(names):
        raise ValueError(
            f'{path} has the categories in another order ({some(in_file)}) than the classes of the data set '
            f'({some(names)}), and labels would be mixed up; {out}')
    for key, head in heads.items():
        if head.num_classes != len(names):
            raise ValueError(f'{key}.num_classes={head.num_classes}, but {path} gives {len(names)} classes; {out}')


def _training_file(cfg: Config) -> Path | None:
    """The annotations that the detector is trained with."""
    dataset = next(coco_datasets((cfg.get('train_dataloader') or {}).get('dataset')), None)
    return None if dataset is None else annotation_path(dataset)


def _way_out(names: Sequence[str], path: Path, training_file: Path | None) -> str:
    """What to do about categories that are not the classes."""
    if not training_file or not training_file.is_file() or training_file.samefile(path):
        return USE_FILE
    if [category.get('name') for category in read_annotations(training_file)['categories']] == list(names):
        return f'make the categories of {path} equal to those of {training_file}, in their order'
    return USE_FILE


def check_images(images: list[dict], path: Path, folder: Path) -> None:
    """The images are there, and those looked at have the size that the file says.

    Raises:
        ValueError: as `check_loader`.
    """
    if not images:
        raise ValueError(f'{path} has no images')
    refuse([image['file_name'] for image in images if leaves_folder(str(image['file_name']))], path,
            f'images are named outside {folder}')
    listed: dict[Path, set[str]] = {}
    missing = []
    for image in images:
        file = folder / image['file_name']
        if file.parent not in listed:
            listed[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        if file.name not in listed[file.parent]:
            missing.append(image['file_name'])
    refuse(missing, path, f'images are not in {folder} (data_root + data_prefix.img + file_name)')
    for image in images[::-(-len(images) // NUM_SIZES)]:
        size = _loaded_size(folder / image['file_name'])
        if size != (image['width'], image['height']):
            raise ValueError(
                f'{path} says that {image["file_name"]} has {image["width"]}x{image["height"]} pixels, but it has '
                f'{size[0]}x{size[1]} (as loaded, EXIF rotation applied); make the file anew from the images')


def _loaded_size(file: Path) -> tuple[int, int]:
    """Width and height of an image as it will be loaded, from its header."""
    try:
        with open_image(file) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(0x0112) in TRANSPOSED else (width, height)
    except OSError as error:
        raise ValueError(f'{file} is no readable image: {error}') from error


def class_names(dataset: ConfigDict) -> Sequence[str]:
    """The classes that a CocoDataset is built with."""
    names = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(names, str):  # a file of names, one a line
        return Path(names).read_text().split('\n')[:-1]
    if names is None:
        from mmdet.datasets import CocoDataset
        names = CocoDataset.METAINFO['classes']
    return names


def _loads_masks(dataset: ConfigDict) -> bool:
    return any(transform.get('with_mask') for transform in dataset.get('pipeline', []))
