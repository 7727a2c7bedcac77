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

    The block is an anonymous file, not a part of /dev/shm, which has 64 MB in a container by default. `shared` is the
    `DupFd` of an existing block, as multiprocessing sends it.
    """

    def __init__(self, nbytes: int, shared: object = None) -> None:
        self.nbytes = max(nbytes, 1)
        if shared is not None:
            self.fd = shared.detach()
        elif hasattr(os, 'memfd_create'):  # Linux
            self.fd = os.memfd_create('mae_mm')
        else:
            self.fd, path = tempfile.mkstemp()
            os.unlink(path)
        os.truncate(self.fd, self.nbytes)
        self.array = np.frombuffer(mmap.mmap(self.fd, self.nbytes), dtype=np.uint8)  # (nbytes,) uint8, writable

    def __reduce__(self):
        return SharedMemory, (self.nbytes, DupFd(self.fd))

    def __deepcopy__(self, memo: dict) -> 'SharedMemory':
        return self

    def __del__(self) -> None:
        if hasattr(self, 'fd'):
            os.close(self.fd)


class ImageCache:
    """uint8 images of any sizes in one shared block; those that do not fit, or cannot be decoded, are missing.

    Args:
        load: returns the (H, W, C) uint8 image of an index; called from several threads.
    """

    CHUNK = 16  # images per task of a thread

    def __init__(
            self, load: Callable[[int], np.ndarray], indices: Sequence[int], max_bytes: int,
            progress: bool = True) -> None:
        self.memory = SharedMemory(max_bytes)
        self.starts = np.full(max(indices, default=-1) + 1, -1, dtype=np.int64)  # first byte of an image, -1: not here
        self.shapes = np.zeros((len(self.starts), 3), dtype=np.int32)  # H, W, C
        self.used = 0  # bytes
        self.full = False
        lock = Lock()

        def put(first: int) -> int:
            chunk = indices[first:first + self.CHUNK]
            for i in chunk:
                if self.full:
                    break
                try:
                    img = load(i)
                except DecodeError:
                    continue  # reported when it is used
                with lock:
                    self.full = self.full or self.used + img.nbytes > max_bytes
                    if self.full:
                        break
                    start, self.used = self.used, self.used + img.nbytes
                self.memory.array[start:start + img.nbytes].reshape(img.shape)[:] = img
                self.shapes[i], self.starts[i] = img.shape, start
            return len(chunk)

        bar = tqdm(total=len(indices), desc='caching images', unit='img', disable=None if progress else True)
        with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
            for done in pool.map(put, range(0, len(indices), self.CHUNK)):
                bar.update(done)

    def __len__(self) -> int:
        return int((self.starts >= 0).sum())

    def get(self, i: int) -> np.ndarray | None:
        """An image, (H, W, C) uint8, as a read-only view of the shared block; None if it is missing."""
        start = self.starts[i]
        if start < 0:
            return None
        height, width, channels = self.shapes[i].tolist()
        return self.memory.array[start:start + height * width * channels].reshape(height, width, channels)
