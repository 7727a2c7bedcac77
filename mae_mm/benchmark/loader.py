"""From files to crops: this project's loading against mmpretrain's transforms, at equal pixels."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from mae_mm.benchmark.images import draw_jpegs
from mae_mm.benchmark.timing import Rounds, Timing, interleave
from mae_mm.datasets import ImageFolder
from mae_mm.datasets.checks.images import check_chunk
from mae_mm.datasets.find import find_images
from mae_mm.datasets.jpeg import _jpeg_crop

# The transforms of mmpretrain's MAE configs.
MMPRETRAIN = (
    dict(type='mmpretrain.LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='mmpretrain.RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs'),
)
IMAGENET_SIZE, LARGE_SIZE = (375, 500), (1536, 2048)  # height, width in pixels


def load_with_mmpretrain(paths: Sequence[str], size: int) -> Callable[[], None]:
    """A call that makes one view of every file by mmpretrain's transforms."""
    load, crop, *rest = MMPRETRAIN
    pipeline = Compose([TRANSFORMS.build(step) for step in (load, dict(crop, scale=size), *rest)])

    def run() -> None:
        for path in paths:
            pipeline(dict(img_path=path, gt_label=0))

    return run


def load_with_ours(
    folder: Path, size: int, repeats: int = 1, cache: str = 'none', crop_decoder: bool = False,
) -> Callable[[], None]:
    """A call that makes `repeats` views of every file through `mae_mm.ImageFolder`."""
    transform = dict(type='mae_mm.LoadRandomResizedCrop', size=size, scale=(0.2, 1.0), repeats=repeats,
                     crop_decoder=crop_decoder)
    dataset = ImageFolder(folder, [transform], cache=cache)

    def run() -> None:
        for i in range(len(dataset)):
            dataset[i]

    return run


def compare_loading(size: int = 224, images: int = 60, rounds: int | Rounds = 7, data: str | None = None) -> list[dict]:
    """Time all ways of loading in this process's CPU time, one thread, interleaved.

    Args:
        size: side of a view in pixels.
        images: files of each kind; a tenth as many of the large ones.
        rounds: timed passes over them.
        data: folder of files to use in place of drawn ones of 500x375 pixels.

    Returns:
        A row for each way: `name`, `peer` (the row it is compared with), milliseconds a view (`Timing`), and `ratio`,
        peer / this (above 1: faster than mmpretrain).

    Raises:
        FileNotFoundError: if there is no image in `data`.
        ValueError: if one of them cannot be read.
    """
    if data and not Path(data).is_dir():
        raise FileNotFoundError(f'--data {data}: no such folder')
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as temporary:
        small = Path(data) if data else draw_jpegs(Path(temporary, 'small'), images, *IMAGENET_SIZE)
        large = draw_jpegs(Path(temporary, 'large'), max(images // 10, 2), *LARGE_SIZE, blur=1.0)
        files = {folder: [str(folder / name) for name in find_images(str(folder))] for folder in (small, large)}
        if data and (bad := check_chunk(files[small])):
            raise ValueError(f'--data {data}: {bad[0].path} cannot be read ({bad[0].reason}); {len(bad)} such files')
        if not files[small]:
            raise FileNotFoundError(f'--data {data}: no image in it')
        ways = {  # name -> call, views that it makes
            'mmpretrain': (load_with_mmpretrain(files[small], size), len(files[small])),
            'mae_mm': (load_with_ours(small, size), len(files[small])),
            **({'mae_mm, crop decoder': (load_with_ours(small, size, crop_decoder=True), len(files[small]))}
               if _jpeg_crop else {}),
            'mae_mm, repeats=2': (load_with_ours(small, size, 2), 2 * len(files[small])),
            'mae_mm, repeats=4': (load_with_ours(small, size, 4), 4 * len(files[small])),
            'mae_mm, cache=memory': (load_with_ours(small, size, cache='memory'), len(files[small])),
            'mmpretrain, 2048x1536': (load_with_mmpretrain(files[large], size), len(files[large])),
            'mae_mm, 2048x1536': (load_with_ours(large, size), len(files[large])),
        }
        seconds = interleave({name: call for name, (call, _) in ways.items()}, rounds, clock=time.process_time)
    times = {name: Timing(*(1e3 * t / ways[name][1] for t in seconds[name])) for name in ways}
    rows = []
    for name, timing in times.items():
        peer = 'mmpretrain, 2048x1536' if '2048' in name else 'mmpretrain'
        rows.append(dict(name=name, peer=peer, ms=timing, ratio=times[peer].median / timing.median))
    return rows
