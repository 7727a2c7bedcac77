"""Decoded images in one block of memory that all workers of a loader share."""

import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import DupFd
from threading import Lock

import numpy as np
from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError


class SharedMemory:
    """Zeroed bytes that forked and spawned processes share; a page takes memory once it is written.

    The block is an anonymous file, not a part of /dev/shm, which has 64 MB in a container by default.

    Args:
        nbytes: size of the block.
        fd: descriptor of an existing block.
    """

    def __init__(self, nbytes: int, fd: int | None = None) -> None:
        self.nbytes = max(nbytes, 1)
        if fd is None:
            fd = _anonymous_file()
            os.truncate(fd, self.nbytes)
        self.fd = fd
        self.array = np.frombuffer(mmap.mmap(fd, self.nbytes), dtype=np.uint8)  # (nbytes,) uint8, writable

    def __reduce__(self):
        return _attach, (self.nbytes, DupFd(self.fd))

    def __deepcopy__(self, memo: dict) -> 'SharedMemory':
        return self

    def __del__(self) -> None:
        if hasattr(self, 'fd'):
            os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, 'memfd_create'):  # Linux
        return os.memfd_create('mae_mm')
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def _attach(nbytes: int, fd) -> SharedMemory:
    return SharedMemory(nbytes, fd.detach())


class ImageCache:
    """uint8 images of any sizes in one shared block; those that do not fit, or cannot be decoded, are missing.

    Args:
        load: returns the (H, W, C) uint8 image of an index; called from several threads.
        length: number of images.
        max_bytes: size of the block.
        progress: whether to show a progress bar.
    """

    CHUNK = 16  # images per task of a thread

    def __init__(self, load: Callable[[int], np.ndarray], length: int, max_bytes: int, progress: bool = True) -> None:
        self.max_bytes = max_bytes
        self.memory = SharedMemory(max_bytes)
        self.starts = np.full(length, -1, dtype=np.int64)  # first byte of each image, -1: not here
        self.shapes = np.zeros((length, 3), dtype=np.int32)  # H, W, C
        self.used = 0  # bytes
        self.full = False
        self._fill(load, progress)

    def _fill(self, load: Callable[[int], np.ndarray], progress: bool) -> None:
        lock = Lock()

        def put(first: int) -> int:
            indices = range(first, min(first + self.CHUNK, len(self.starts)))
            for i in indices:
                if self.full:
                    break
                try:
                    img = load(i)
                except DecodeError:
                    continue  # reported when it is used
                with lock:
                    start, self.full = self.used, self.full or self.used + img.nbytes > self.max_bytes
                    self.used += 0 if self.full else img.nbytes
                if self.full:
                    break
                self.memory.array[start:start + img.nbytes].reshape(img.shape)[:] = img
                self.shapes[i], self.starts[i] = img.shape, start
            return len(indices)

        bar = tqdm(total=len(self.starts), desc='caching images', unit='img', disable=None if progress else True)
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
            for done in pool.map(put, range(0, len(self.starts), self.CHUNK)):
                bar.update(done)

    def __len__(self) -> int:
        """Number of images in the cache."""
        return int((self.starts >= 0).sum())

    def get(self, i: int) -> np.ndarray | None:
        """An image, (H, W, C) uint8, as a read-only view of the shared block; None if it is missing."""
        start = self.starts[i]
        if start < 0:
            return None
        height, width, channels = self.shapes[i].tolist()
        return self.memory.array[start:start + height * width * channels].reshape(height, width, channels)

    def subset(self, indices: Sequence[int]) -> 'ImageCache':
        """A cache of these images, in this order, on the same block."""
        other = object.__new__(ImageCache)
        other.__dict__.update(vars(self), starts=self.starts[indices], shapes=self.shapes[indices])
        return other
