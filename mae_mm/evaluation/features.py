"""Frozen features of labelled images, computed once for each encoder and list of images, and kept on disk."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from mae_mm.checkpoint.files import PARTIAL
from mae_mm.engine.loops.batches import killed_workers, start_worker
from mae_mm.evaluation.embed import Images, collate
from mae_mm.evaluation.encoder import Encoder

BLOCKS = 4  # the last ones, whose means are kept
VERSION = 1  # of the files; another one computes them anew


class Features(NamedTuple):
    """Features of N images, float16, read from the disk as they are needed; rows of unreadable images are zero."""

    means: np.ndarray  # (N, B, D): mean patch token after each of the last B blocks
    classes: np.ndarray  # (N, D): class token; (N, 0) of encoders that attend in windows, which have none
    patches: np.ndarray  # (N, L, D): patch tokens after the last block
    unreadable: dict[int, str]  # row -> reason

    def class_token(self, rows: np.ndarray) -> np.ndarray:
        if not self.classes.shape[1]:
            raise ValueError('this encoder attends in windows, which have no class token: leave the probe of it out, '
                             'e.g. --probes knn linear_mean attentive')
        return self.classes[rows]


def extract(
    encoder: Encoder, paths: Sequence[str], cache: Path, batch_size: int = 64, workers: int = 0, name: str = '',
) -> Features:
    """Features of image files, in their order: those in `cache`, or computed and written there.

    They belong to the weights, pixel statistics and size of the encoder, and to names, sizes and times of the files.
    A folder gets its name once it is complete. A second process that needs the same waits for the first.

    Raises:
        OSError: if they do not fit on the disk.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / _key(encoder, paths)
    with open(folder.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(PARTIAL)
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir()
            try:
                _compute(encoder, paths, unfinished, batch_size, workers, name)
                unfinished.rename(folder)
            except BaseException:
                shutil.rmtree(unfinished)
                raise
    arrays = [np.load(folder / f'{field}.npy', mmap_mode='r') for field in Features._fields[:3]]
    unreadable = json.loads((folder / 'unreadable.json').read_text())
    return Features(*arrays, {int(row): reason for row, reason in unreadable.items()})


def _key(encoder: Encoder, paths: Sequence[str]) -> str:
    """What the features depend on, as a name."""
    what = f'{VERSION} {encoder.fingerprint()} {encoder.load} {encoder.dtype}'
    digest = hashlib.blake2b(what.encode(), digest_size=12)
    for path in paths:
        stat = os.stat(path)
        digest.update(os.fsencode(os.path.abspath(path)) + f'\0{stat.st_size} {stat.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def _compute(encoder: Encoder, paths: Sequence[str], folder: Path, batch_size: int, workers: int, name: str) -> None:
    """Write features batch by batch, so that memory does not grow with the number of images."""
    backbone, prefix = encoder.backbone, encoder.num_prefix
    blocks, width, length = min(BLOCKS, backbone.depth), backbone.embed_dim, encoder.grid[0] * encoder.grid[1]
    shapes = [(len(paths), blocks, width), (len(paths), prefix * width), (len(paths), length, width)]
    need, free = sum(2 * int(np.prod(shape)) for shape in shapes), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(errno.ENOSPC, f'features of {len(paths):,} images take {need / 1e9:.1f} GB, and {folder.parent} '
                      f'has {free / 1e9:.1f} GB: give a folder on another disk, --cache DIR', str(folder))
    loader = DataLoader(
        Images(paths, encoder), batch_size, collate_fn=collate, num_workers=workers, worker_init_fn=start_worker)
    unreadable, done = {}, 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f'{field}.npy', 'wb')) for field in Features._fields[:3]]
        for file, shape in zip(files, shapes, strict=True):
            np.lib.format.write_array_header_1_0(file, dict(descr='<f2', fortran_order=False, shape=shape))
        progress = stack.enter_context(tqdm(total=len(paths), desc=name, unit=' images', disable=None))
        stack.enter_context(killed_workers('lower --workers'))
        for imgs, reasons in loader:
            count = len(imgs) + len(reasons)
            readable = [place for place in range(count) if place not in reasons]
            arrays = [np.zeros((count, *shape[1:]), '<f2') for shape in shapes]
            if readable:
                tokens = encoder.tokens(imgs, blocks).cpu().numpy()  # (N, B, prefix + L, D)
                class_tokens, patches = np.split(tokens, [prefix], axis=2)
                parts = patches.mean(2), class_tokens[:, -1].reshape(len(imgs), -1), patches[:, -1]
                for array, part in zip(arrays, parts, strict=True):
                    array[readable] = part
            for file, array in zip(files, arrays, strict=True):
                file.write(array.tobytes())  # a full disk is an error here; in mapped memory it would be a crash
            unreadable.update({done + place: reason for place, reason in reasons.items()})
            done += count
            progress.update(count)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    (folder / 'unreadable.json').write_text(json.dumps(unreadable))
