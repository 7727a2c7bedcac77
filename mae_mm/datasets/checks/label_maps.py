"""Faults of segmentation labels, found before they cost a run: every label map is read once, and remembered."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner
from PIL import UnidentifiedImageError
from torch import nn
from tqdm import tqdm

from mae_mm.datasets.limits import open_image

CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mae_mm' / 'label_maps'
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)  # the Exif tag, and its values for an image that lies on its side


class Fault(NamedTuple):
    """What is wrong with one pair of files."""

    kind: str
    example: str  # the files and the offending values


class Pair(NamedTuple):
    """An image and its label map."""

    image: str
    label_map: str


def check_labels(runner: Runner, loaders: tuple[str, ...]) -> None:
    """Refuse faulty labels of segmentation data, and heads that have not the classes of the data; others pass.

    Raises:
        ValueError: on every rank, naming what rank 0 found first.
    """
    datasets = {key: getattr(runner, key).dataset for key in loaders if runner.cfg.get(key)}
    segmentation = {key: dataset for key, dataset in datasets.items()
                    if 'reduce_zero_label' in getattr(dataset, 'metainfo', {})}
    messages = ['']
    if segmentation and is_main_process():
        try:
            for key, dataset in segmentation.items():
                check_label_maps(dataset, f'{key}.dataset')
                check_heads(runner.model, len(dataset.metainfo['classes']), key)
        except ValueError as error:
            messages = [str(error)]
    broadcast_object_list(messages)
    if messages[0]:
        raise ValueError(messages[0])


def check_heads(model: nn.Module, classes: int, loader: str) -> None:
    """Refuse heads of a segmentor with more or fewer classes than the data: on a GPU the loss would only crash."""
    for name, module in model.named_modules():
        if hasattr(module, 'conv_seg') and module.num_classes != classes:
            raise ValueError(
                f'{name} has {module.num_classes} classes, {loader}.dataset {classes}; set model.{name}.num_classes')


def check_label_maps(dataset: BaseDataset, where: str, cache: Path = CACHE) -> None:
    """Refuse an mmseg data set with label maps that are missing, of another size than their image, or out of range.

    All files are read, in threads; a data set without faults is remembered by its files' names, sizes and times, and
    not read again.

    Args:
        dataset: of mmseg's format; wrappers are welcome.
        where: its key in the config, for messages.
        cache: folder to remember in.

    Raises:
        ValueError: naming each kind of fault, how many there are and the first files; or if there are no classes.
    """
    meta = dataset.metainfo
    if not meta.get('classes'):
        raise ValueError(f'{where} has no classes; give metainfo=dict(classes=[…], palette=[[R, G, B], …])')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    pairs = [Pair(info['img_path'], info['seg_map_path']) for info in infos]
    if not pairs:
        raise ValueError(f'{where} has no images; the file names must end as its img_suffix and seg_map_suffix say')
    classes, reduce_zero_label = len(meta['classes']), meta['reduce_zero_label']
    valid = valid_labels(classes, reduce_zero_label, meta['label_map'])
    remembered = cache / fingerprint(pairs, valid)
    if remembered.exists():
        return
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter's lock
        found = pool.map(lambda pair: find_faults(pair, valid), pairs)
        faults = [fault for several in tqdm(found, f'labels of {where}', len(pairs), leave=False, delay=1)
                  for fault in several]
    if faults:
        raise ValueError(describe_faults(faults, where, classes, reduce_zero_label))
    cache.mkdir(parents=True, exist_ok=True)
    remembered.touch()


def valid_labels(classes: int, reduce_zero_label: bool, label_map: dict[int, int] | None = None) -> np.ndarray:
    """Which values a label map may hold: (256,) bool.

    Args:
        classes: number of classes.
        reduce_zero_label, label_map: as of `read_labels`.
    """
    read = read_labels(reduce_zero_label, label_map)
    return (read < classes) | (read == 255)


def read_labels(reduce_zero_label: bool, label_map: dict[int, int] | None = None) -> np.ndarray:
    """What mmseg makes of each value in a label map (`LoadAnnotations`): (256,) int, 255 = unlabelled.

    Args:
        reduce_zero_label: 0 means unlabelled, and class 0 is stored as 1.
        label_map: stored class to class, where some classes of a known data set are chosen.
    """
    read = np.arange(256)
    if reduce_zero_label:
        read = np.where((read == 0) | (read == 255), 255, read - 1)
    if label_map:
        read = np.array([label_map.get(label, label) for label in read.tolist()])
    return read


def fingerprint(pairs: Iterable[Pair], valid: np.ndarray) -> str:
    """Digest of what the check depends on: names, sizes and times of all files, and the valid values."""
    digest = hashlib.sha256(valid.tobytes())
    for path in (path for pair in pairs for path in pair):
        stat = os.stat(path) if os.path.exists(path) else None
        digest.update(f'{os.path.abspath(path)}|{stat and (stat.st_size, stat.st_mtime_ns)}\n'.encode())
    return digest.hexdigest()


def find_faults(pair: Pair, valid: np.ndarray) -> list[Fault]:
    """What is wrong with an image and its label map; an empty list when nothing is."""
    for path in pair:
        if not os.path.exists(path):
            return [Fault('missing file', f'{path}' + (f' for {pair.image}' if path == pair.label_map else ''))]
    try:
        with open_image(pair.image) as image:
            size = image.size[::-1] if image.getexif().get(ORIENTATION) in TRANSPOSED else image.size
        with open_image(pair.label_map) as label_map:
            if label_map.mode not in ('L', 'P', '1'):
                return [Fault('label map that is not one channel of 8 bits',
                              f'{pair.label_map} (Pillow mode {label_map.mode})')]
            counts = label_map.histogram()
            if label_map.mode == '1':  # counted at 0 and 255, read as 0 and 1
                counts[1], counts[255] = counts[255], 0
            other_size = label_map.size != size and f'{pair.label_map} is {label_map.size}, {pair.image} is {size}'
    except (UnidentifiedImageError, OSError) as error:
        return [Fault('unreadable file', f'{pair.image} or its {pair.label_map}: {error}')]
    wrong = np.flatnonzero((np.array(counts) > 0) & ~valid)
    return [
        *([Fault('label map of another size than its image (width, height)', other_size)] if other_size else []),
        *([Fault('label map with values outside the classes', f'{pair.label_map} has {wrong.tolist()}')]
          if len(wrong) else [])]


def describe_faults(faults: list[Fault], where: str, classes: int, reduce_zero_label: bool) -> str:
    """One message: each kind with its number and the first examples, and how values are read."""
    lines = [f'{where} has faulty labels']
    for kind in dict.fromkeys(fault.kind for fault in faults):
        examples = [fault.example for fault in faults if fault.kind == kind]
        lines.append(f'  {len(examples)} x {kind}: {"; ".join(examples[:3])}' + (' …' if len(examples) > 3 else ''))
    first = int(reduce_zero_label)
    lines.append(
        f'  values of the {classes} classes are {first} … {classes - 1 + first}, of unlabelled pixels '
        f'{"0 and 255" if reduce_zero_label else 255} (reduce_zero_label={reduce_zero_label})')
    return '\n'.join(lines)
