"""COCO data sets in a config: classes taken from the file when requested, and mistakes reported before training."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mae_mm.datasets.checks.coco_entries import check_entries, read_annotations, refuse, some
from mae_mm.datasets.configs import LOADERS, datasets_of
from mae_mm.datasets.limits import leaves_folder, upright_size

NUM_SIZES = 100  # images of a file whose size is compared with the file's; all of them would take minutes
PALETTE_SIZE = 80  # colours of mmdet's COCO palette
FIX = ('make the categories equal to the classes, in their order, or use those of the training file: --cfg-options '
       "classes=json, or classes = 'json' in the config")


def coco_datasets(cfg: Config, loader: str) -> list[ConfigDict]:
    """Configs of the CocoDatasets of a loader, wrapped ones included."""
    return [dataset for _, dataset in datasets_of(cfg, loader)
            if dataset.get('type', '').rsplit('.', 1)[-1] == 'CocoDataset']


def annotation_path(dataset: ConfigDict) -> Path:
    """The annotation file of a data set."""
    return Path(dataset.get('data_root') or '', dataset['ann_file'])


def adopt_classes(cfg: Config) -> None:
    """Resolve the top-level key `classes`: a list of names, or 'json' for the categories of the training file.

    The names are set in every CocoDataset and their number in every box and mask head; the key is removed. It stays
    only if the training file is missing (`check_loader` reports that).

    Raises:
        ValueError: if the file cannot be read, or `classes` is something else.
    """
    names = cfg.get('classes')
    datasets = [dataset for loader in LOADERS for dataset in coco_datasets(cfg, loader)]
    if names is None or not datasets:
        return
    if names == 'json':
        path = annotation_path(datasets[0])
        if not path.is_file():
            return
        names = [category.get('name') for category in read_annotations(path)['categories']]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f'{path}: the name of every category must be a string ({some(names, "got")})')
    elif isinstance(names, str):
        raise ValueError(f"classes={names!r} must be 'json' or a list of names")
    for dataset in datasets:
        dataset.metainfo = dict(classes=tuple(names))
        if len(names) > PALETTE_SIZE:
            dataset.metainfo.palette = 'random'
    for _, head in class_heads(cfg.model):
        head.num_classes = len(names)
    cfg.pop('classes')


def class_heads(model: ConfigDict, key: str = 'model') -> Iterator[tuple[str, ConfigDict]]:
    """Keys and configs of a detector's box and mask heads, one- or two-stage, cascades included."""
    for name in ('roi_head', 'bbox_head', 'mask_head'):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, list | tuple) else [heads]:
            if name != 'roi_head' and 'num_classes' in head:
                yield f'{key}.{name}', head
            yield from class_heads(head, f'{key}.{name}')


def check_loader(cfg: Config, loader: str) -> None:
    """Compare each CocoDataset of a loader with its images, with the heads, and with the evaluator.

    Raises:
        ValueError: for the first mistake, with examples and how to fix it.
        FileNotFoundError: if `classes` are those of a training file that is missing.
    """
    for dataset in coco_datasets(cfg, loader):
        if cfg.get('classes') == 'json':
            missing = [annotation_path(one) for one in coco_datasets(cfg, 'train_dataloader')]
            raise FileNotFoundError(
                f"classes='json' takes the categories of the training annotations {some(missing, '')}, which are "
                "missing; write the names: classes=['cat', 'dog']")
        path = annotation_path(dataset)
        content = read_annotations(path)
        folder = Path(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img', ''))
        with_masks = any(transform.get('with_mask') for transform in dataset.get('pipeline', []))
        try:
            check_entries(content, path, with_masks, training=loader == 'train_dataloader')
            check_categories(content, path, class_names(dataset), dict(class_heads(cfg.model)))
            check_images(content['images'], path, folder)
        except KeyError as error:
            raise ValueError(f'{path}: an image, annotation or category has no {error}') from error
        except (TypeError, OverflowError) as error:
            raise ValueError(f'{path}: an image, annotation or category has a value of a wrong type: {error}'
                             ) from error
        key = loader.replace('dataloader', 'evaluator')
        evaluators = cfg.get(key) or {}
        for one in evaluators if isinstance(evaluators, list) else [evaluators]:
            if one.get('ann_file') and Path(one['ann_file']).absolute() != path.absolute():
                raise ValueError(
                    f'{key}.ann_file={one["ann_file"]} is not the file that {loader} reads, {path}; the metric would '
                    f'be of other images: --cfg-options {key}.ann_file={path}')


def check_categories(content: dict, path: Path, names: Sequence[str], heads: dict[str, ConfigDict]) -> None:
    """Check that the file's categories are the data set's classes, in the same order, and that the heads fit.

    mmdet numbers the labels in the file's order whatever the order of `names`, and drops what it does not find.

    Raises:
        ValueError: as `check_loader`.
    """
    in_file = [category['name'] for category in content['categories']]
    refuse([name for name, count in Counter(in_file).items() if count > 1], path, 'names of categories are not unique',
           'names')
    if missing := [name for name in names if name not in in_file]:
        raise ValueError(
            f'{path} has {len(in_file)} categories ({some(in_file, "")}), and {len(missing)} of the {len(names)} '
            f'classes of the data set are not among them ({some(missing, "")}); {FIX}')
    if [name for name in in_file if name in names] != list(names):
        raise ValueError(
            f'{path} has the categories in another order ({some(in_file, "")}) than the classes of the data set '
            f'({some(names, "")}), and labels would be mixed up; {FIX}')
    for key, head in heads.items():
        if head.num_classes != len(names):
            raise ValueError(f'{key}.num_classes={head.num_classes}, but {path} gives {len(names)} classes; {FIX}')


def check_images(images: list[dict], path: Path, folder: Path) -> None:
    """Check that all images exist, and that a sample of them has the size that the file gives.

    Raises:
        ValueError: as `check_loader`.
    """
    if not images:
        raise ValueError(f'{path} has no images')
    names = [image['file_name'] for image in images]
    refuse([name for name in names if leaves_folder(str(name))], path, f'images are outside {folder}', 'names')
    listed = {parent: set(os.listdir(parent)) if parent.is_dir() else set()
              for parent in {(folder / name).parent for name in names}}
    refuse([name for name in names if (folder / name).name not in listed[(folder / name).parent]], path,
           f'images are missing in {folder} (data_root + data_prefix.img + file_name)', 'names')
    for image in images[::-(-len(images) // NUM_SIZES)]:
        file = folder / image['file_name']
        try:
            width, height = upright_size(file)
        except OSError as error:
            raise ValueError(f'{file} is not a readable image: {error}') from error
        if (width, height) != (image['width'], image['height']):
            raise ValueError(
                f'{path} says that {image["file_name"]} has {image["width"]}x{image["height"]} pixels, but it has '
                f'{width}x{height} (as loaded, EXIF rotation applied); create the file again from the images')


def class_names(dataset: ConfigDict) -> Sequence[str]:
    """The classes that a CocoDataset is built with."""
    names = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(names, str):  # a file of names, one a line
        return Path(names).read_text().split('\n')[:-1]
    if names is None:
        from mmdet.datasets import CocoDataset
        names = CocoDataset.METAINFO['classes']
    return names
