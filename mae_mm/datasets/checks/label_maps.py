"""Segmentation labels: mistakes reported before a run starts."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner
from torch import nn
from tqdm import tqdm

from mae_mm.datasets.limits import open_image
from mae_mm.datasets.pixel_files import image_size

NUM_READ = 5000  # label maps of a data set that are read, evenly spaced; more would cost minutes at every start


def check_labels(runner: Runner, loaders: tuple[str, ...]) -> None:
    """Raise a ValueError on every rank for wrong labels, or heads with another number of classes, found by rank 0."""
    messages = ['']
    # On every rank: building a loader is a step that all ranks take together.
    datasets = {key: getattr(runner, key).dataset for key in loaders if runner.cfg.get(key)}
    if is_main_process():
        try:
            for key, dataset in datasets.items():
                if 'reduce_zero_label' in getattr(dataset, 'metainfo', {}):
                    check_label_maps(dataset, f'{key}.dataset')
                    check_heads(runner.model, len(dataset.metainfo['classes']), key)
                elif classes := getattr(dataset, 'metainfo', {}).get('classes'):
                    check_classifier(runner.cfg, len(classes), key)
        except ValueError as error:
            messages = [str(error)]
    broadcast_object_list(messages)
    if messages[0]:
        raise ValueError(messages[0])


def check_heads(model: nn.Module, classes: int, loader: str) -> None:
    """Refuse heads of a segmentor with another number of classes than the data: on a GPU the loss would crash."""
    for name, module in model.named_modules():
        if hasattr(module, 'conv_seg') and module.num_classes != classes:
            raise ValueError(
                f'{name} has {module.num_classes} classes, {loader}.dataset {classes}; set model.{name}.num_classes')


def check_classifier(cfg: Config, classes: int, loader: str) -> None:
    """Refuse a classification head, or a preprocessor that makes one-hot labels, for another number of classes."""
    parts = {key: part.num_classes for key, part in (
        ('model.head', cfg.model.get('head')), ('data_preprocessor', cfg.get('data_preprocessor')))
        if isinstance(part, dict) and 'num_classes' in part}
    if 'model.head' in parts and set(parts.values()) != {classes}:
        found = ' and '.join(f'{key}.num_classes={number}' for key, number in parts.items())
        fix = ' '.join(f'{key}.num_classes={classes}' for key in parts)
        raise ValueError(f'{loader}.dataset has {classes} classes, but {found}: --cfg-options {fix}')
    key = loader.replace('train', 'val').replace('dataloader', 'evaluator')
    metrics = cfg.get(key) or {}
    metrics = {f'{key}.{i}': one for i, one in enumerate(metrics)} if isinstance(metrics, list) else {key: metrics}
    for name, metric in metrics.items():
        best = metric.get('topk', 1)
        if max([best] if isinstance(best, int) else best) > classes:
            raise ValueError(
                f'{name}.topk={best} takes more classes than the {classes} of {loader}.dataset: --cfg-options '
                f'{name}.topk=[1]')


def check_label_maps(dataset: BaseDataset, where: str) -> None:
    """Refuse an mmseg data set with label maps that are missing, of another size than their image, or out of range.

    All files must exist; up to `NUM_READ` label maps are read, in threads. `where` is the key of the possibly wrapped
    data set in the config.
    """
    meta = dataset.metainfo
    if not meta.get('classes'):
        raise ValueError(f'{where} has no classes; give metainfo=dict(classes=[…], palette=[[R, G, B], …])')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if not infos:
        raise ValueError(f'{where} has no images; the file names must end with its img_suffix and seg_map_suffix')
    pairs = [(info['img_path'], info['seg_map_path']) for info in infos]
    faults = [('missing file', f'{path}' + (f' for {image}' if path == label_map else ''))
              for image, label_map in pairs for path in (image, label_map) if not os.path.exists(path)]
    classes, first = len(meta['classes']), int(meta['reduce_zero_label'])
    if not faults:
        valid = valid_labels(classes, meta['reduce_zero_label'], meta['label_map'])
        sample = pairs[::-(-len(pairs) // NUM_READ)]
        with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter's lock
            found = pool.map(lambda pair: find_faults(*pair, valid), sample)
            faults = [fault for several in tqdm(found, f'labels of {where}', len(sample), leave=False, delay=1)
                      for fault in several]
    if not faults:
        return
    lines = [f'{where} has wrong labels']
    for kind in dict.fromkeys(kind for kind, _ in faults):
        examples = [example for other, example in faults if other == kind]
        lines.append(f'  {len(examples)} x {kind}: {"; ".join(examples[:3])}' + (' …' if len(examples) > 3 else ''))
    raise ValueError('\n'.join([
        *lines, f'  values of the {classes} classes are {first} … {classes - 1 + first}, of unlabelled pixels '
        f'{"0 and 255" if first else 255} (reduce_zero_label={meta["reduce_zero_label"]})']))


def valid_labels(classes: int, reduce_zero_label: bool, label_map: dict[int, int] | None = None) -> np.ndarray:
    """Which values a label map may hold, (256,) bool; arguments as of `read_labels`."""
    read = read_labels(reduce_zero_label, label_map)
    return (read < classes) | (read == 255)


def read_labels(reduce_zero_label: bool, label_map: dict[int, int] | None = None) -> np.ndarray:
    """What mmseg's `LoadAnnotations` makes of each value in a label map: (256,) int, 255 = unlabelled.

    With `reduce_zero_label` 0 means unlabelled, and class 0 is stored as 1; `label_map` is stored class to class, where
    some classes of a known data set are chosen.
    """
    read = np.arange(256)
    if reduce_zero_label:
        read = np.where((read == 0) | (read == 255), 255, read - 1)
    return np.array([(label_map or {}).get(label, label) for label in read.tolist()])


def find_faults(image: str | Path, label_map: str | Path, valid: np.ndarray) -> list[tuple[str, str]]:
    """Mistakes in an image and its label map: the kind, and the files with the wrong values."""
    try:
        size = image_size(image)
        with open_image(label_map) as labels:
            if labels.mode not in ('L', 'P', '1'):
                return [('label map that is not one channel of 8 bits', f'{label_map} (Pillow mode {labels.mode})')]
            counts = np.array(labels.histogram())
    except OSError as error:
        return [('unreadable file', f'{image} or its {label_map}: {error}')]
    if labels.mode == '1':  # counted at 0 and 255, read as 0 and 1
        counts[1], counts[255] = counts[255], 0
    faults = []
    if labels.size != size:
        faults.append(('label map of another size than its image (width, height)',
                       f'{label_map} is {labels.size}, {image} is {size}'))
    if len(wrong := np.flatnonzero((counts > 0) & ~valid)):
        faults.append(('label map with values outside the classes', f'{label_map} has {wrong.tolist()}'))
    return faults
