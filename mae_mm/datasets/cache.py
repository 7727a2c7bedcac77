"""Decoded images in one block of memory that all processes of a machine share, workers of loaders included."""

import fcntl
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Lock

import numpy as np
from mmengine.dist import all_gather_object, barrier, get_rank, is_main_process
from mmengine.logging import print_log
from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError


class SharedMemory:
    """Zeroed bytes that forked and spawned processes share; a page takes memory once it is written.

    The block is an anonymous file, not a part of /dev/shm, which has 64 MB in a container by default: it is gone with
    the last process that has it open, however that ends. `shared` is an existing block: its path, or its `DupFd`, as
    multiprocessing sends it.
    """

    def __init__(self, nbytes: int, shared: object = None) -> None:
        self.nbytes = max(nbytes, 1)
        if shared is not None:
            self.fd = os.open(shared, os.O_RDWR) if isinstance(shared, str) else shared.detach()
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


def memory_of_machine(nbytes: int, content: str) -> tuple[SharedMemory, int, int]:
    """One block for all training processes of a machine whose `content` is the same; to be called by all processes.

    Returns:
        The block, this process's number among those that share it, and how many they are.
    """
    memory = own = SharedMemory(nbytes)  # takes no memory yet
    try:  # processes with the same /proc see each other's files
        machine = Path('/proc/sys/kernel/random/boot_id').read_text() + os.readlink('/proc/self/ns/pid')
    except OSError:  # not Linux
        machine = str(get_rank())
    here, error = (machine, content, os.getpid(), own.fd), ''
    places = [place for place in all_gather_object(here) if place[:2] == here[:2]]
    if here != places[0]:
        try:
            memory = SharedMemory(nbytes, '/proc/{2}/fd/{3}'.format(*places[0]))
        except OSError as refused:
            error = str(refused)
    if errors := [error for place, error in all_gather_object((here, error)) if place in places and error]:
        print_log(f'each process keeps a cache of its own: {errors[0]}', 'current', logging.WARNING)
        return own, 0, 1
    return memory, places.index(here), len(places)


class ImageCache:
    """Images of any sizes and types in one shared block; those that do not fit, or cannot be decoded, are missing.

    Training processes of one machine have one block, and each decodes a part of the images.

    Args:
        load: returns the (H, W, C) image of an index; called from several threads.
        max_bytes: of the pixels.
        content: tells data sets apart: processes share the cache if it is the same.
    """

    CHUNK = 16  # images per task of a thread
    HEAD = 16  # bytes: two int64, the bytes in use and whether an image did not fit
    # End of the pixels, 0: not here; H, W, C; such as u2.
    ENTRY = np.dtype([('end', np.int64), ('shape', np.int32, 3), ('dtype', 'S2')], align=True)

    def __init__(
            self, load: Callable[[int], np.ndarray], indices: Sequence[int], max_bytes: int,
            content: str = '') -> None:
        self.length = max(indices, default=-1) + 1
        table = self.HEAD + self.length * self.ENTRY.itemsize
        self.memory, number, processes = memory_of_machine(table + max_bytes, content)
        head, entries, pixels = self._parts()
        lock = Lock()  # of the threads

        def reserve(img: np.ndarray) -> int | None:
            """The end of free bytes for an image; None if there are too few."""
            with lock:
                fcntl.flock(self.memory.fd, fcntl.LOCK_EX)
                try:
                    nbytes = img.nbytes + int(-head[0] % img.itemsize)  # pixels are aligned
                    head[1] |= head[0] + nbytes > max_bytes
                    if self.full:
                        return None
                    head[0] += nbytes
                    return int(head[0])
                finally:
                    fcntl.flock(self.memory.fd, fcntl.LOCK_UN)

        def put(chunk: Sequence[int]) -> int:
            for i in chunk:
                if self.full:
                    break
                try:
                    img = load(i)
                except DecodeError:
                    continue  # reported when it is used
                if (end := reserve(img)) is None:
                    break
                pixels[end - img.nbytes:end].view(img.dtype).reshape(img.shape)[:] = img
                entries['shape'][i], entries['dtype'][i] = img.shape, img.dtype.str[1:]
                entries['end'][i] = end
            return len(chunk)

        mine = [indices[first:first + self.CHUNK]
                for first in range(number * self.CHUNK, len(indices), processes * self.CHUNK)]
        bar = tqdm(total=sum(map(len, mine)), desc='caching images', unit='img',
                   disable=None if is_main_process() else True)
        with ThreadPoolExecutor(max(1, os.cpu_count() // processes)) as pool, bar:
            for done in pool.map(put, mine):
                bar.update(done)
        barrier()

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The block's two numbers (int64), the entry of each image, and the pixels (uint8)."""
        block, pixels = self.memory.array, self.HEAD + self.length * self.ENTRY.itemsize
        return block[:self.HEAD].view(np.int64), block[self.HEAD:pixels].view(self.ENTRY), block[pixels:]

    @property
    def used(self) -> int:
        """Bytes of all images."""
        return int(self._parts()[0][0])

    @property
    def full(self) -> bool:
        """Whether an image did not fit."""
        return bool(self._parts()[0][1])

    def __len__(self) -> int:
        return np.count_nonzero(self._parts()[1]['end'])

    def get(self, i: int) -> np.ndarray | None:
        """An image, (H, W, C), as a view of the shared block; None if it is missing."""
        _, entries, pixels = self._parts()
        end, shape, dtype = entries[i].item()
        if not end:
            return None
        dtype = np.dtype(dtype.decode())
        return pixels[end - math.prod(shape) * dtype.itemsize:end].view(dtype).reshape(shape)
