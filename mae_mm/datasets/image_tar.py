"""Images inside plain tar files, on disk or wherever fsspec reads."""

import io
import logging
import tarfile
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import fsspec
import numpy as np
from mmengine.logging import print_log

from mae_mm.registry import DATASETS

from .image_folder import EXTENSIONS, ImageFolder
from .limits import check_bytes

INDEX_SUFFIX = '.index.npz'


class TarIndex(NamedTuple):
    """Where the files of one tar lie; saved beside it, it spares reading every header at the start."""

    names: np.ndarray  # (bytes,) uint8: the members' names, joined
    ends: np.ndarray  # (N,) int64: end of each name
    starts: np.ndarray  # (N,) int64: first byte of each file in the tar
    sizes: np.ndarray  # (N,) int64: bytes of each file
    total: np.ndarray  # () int64: bytes of the tar


def scan_tar(file: io.IOBase, total: int, extensions: Sequence[str] = EXTENSIONS) -> TarIndex:
    """Find the images in an open tar of `total` bytes by its headers alone.

    Raises:
        ValueError: if it is no plain tar.
    """
    names, ends, starts, sizes = bytearray(), array('q'), array('q'), array('q')
    try:
        with tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                if member.isreg() and member.name.lower().endswith(tuple(extensions)):
                    names += member.name.encode('utf-8', 'surrogateescape')
                    for column, value in ((ends, len(names)), (starts, member.offset_data), (sizes, member.size)):
                        column.append(value)
    except tarfile.ReadError as error:
        raise ValueError(f'no plain tar ({error}); unpack a compressed one first') from None
    columns = (np.frombuffer(column, dtype=np.int64) for column in (ends, starts, sizes))
    return TarIndex(np.frombuffer(names, dtype=np.uint8), *columns, np.asarray(total, dtype=np.int64))


def _fits(index: TarIndex, read: Callable[[int, int], bytes]) -> bool:
    """Whether an index is of this tar: the last file's header stands where it should, with its name and size."""
    if not len(index.ends):
        return True
    try:
        header = tarfile.TarInfo.frombuf(read(int(index.starts[-1]) - 512, 512), 'utf-8', 'surrogateescape')
    except (tarfile.HeaderError, OSError):
        return False
    name = index.names[index.ends[-2] if len(index.ends) > 1 else 0:].tobytes().decode('utf-8', 'surrogateescape')
    return header.size == index.sizes[-1] and name.startswith(header.name)  # a long name is cut in the header


def find_shards(root: str) -> tuple[str, list[str]]:
    """Find tar files.

    Args:
        root: a tar, a folder of them, or a pattern with `*`; a path or any URL of fsspec.

    Returns:
        The protocol, and the paths in sorted order.
    """
    fs, path = fsspec.core.url_to_fs(root)
    if '*' in path:
        found = fs.glob(path)
    elif fs.isdir(path):
        found = fs.glob(path.rstrip('/') + '/*.tar')
    else:
        found = [path] if fs.exists(path) else []
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol, sorted(found)


@DATASETS.register_module()
class ImageTar(ImageFolder):
    """Every image in one or several plain tars: `ImageFolder` with few large files in place of many small ones.

    Each image is read alone, by its place, so samplers shuffle all images of all shards exactly and split them over
    processes and workers as they do files. `tools/pack_tar.py` writes such tars with an index beside each; without
    one, the headers are read at the start. Samples, broken images, cache and arguments are those of `ImageFolder`.

    Args:
        data_root: a tar, a folder of tars, or a pattern such as `s3://bucket/train-*.tar`: a path or any URL that
            fsspec opens.

    Raises:
        FileNotFoundError: if there is no tar, or no image in it.
        ValueError: if a file is no plain tar.
    """

    def _join_prefix(self) -> None:
        """Nothing to join; mmengine would look for a file backend of its own."""

    def _find(self, first_n: int | None) -> tuple[np.ndarray, np.ndarray]:
        self.protocol, self.shards = find_shards(self.data_root)
        indices = [self._index(shard) for shard in self.shards]
        if not sum(len(index.ends) for index in indices):
            found = f'no image ({" ".join(self.extensions)}) in {len(indices)} tars' if indices else 'no tar'
            raise FileNotFoundError(
                f'{self.data_root}: {found}. Expected a tar of images, a folder of them, or a pattern with *; to make '
                'them: python tools/pack_tar.py FOLDER_OF_IMAGES FOLDER_FOR_TARS')
        self.starts = np.concatenate([index.starts for index in indices])[:first_n]  # (N,) first byte in the shard
        self.sizes = np.concatenate([index.sizes for index in indices])[:first_n]  # (N,) bytes
        self.shard_of = np.repeat(np.arange(len(indices)), [len(index.ends) for index in indices])[:first_n]
        lengths = np.cumsum([0, *(len(index.names) for index in indices)])
        ends = np.concatenate([index.ends + before for index, before in zip(indices, lengths, strict=False)])[:first_n]
        return np.concatenate([index.names for index in indices])[:ends[-1]], ends

    def _index(self, shard: str) -> TarIndex:
        """Read the index beside a shard, or the headers in it."""
        fs = fsspec.filesystem(self.protocol)
        total = fs.size(shard)
        if self.extensions == EXTENSIONS and fs.exists(shard + INDEX_SUFFIX):
            with fs.open(shard + INDEX_SUFFIX, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
                index = TarIndex(*(arrays[name] for name in TarIndex._fields))
            if index.total == total and _fits(index, partial(read_range, self.protocol, shard)):
                return index
            print_log(f'{shard + INDEX_SUFFIX} is of another tar: reading headers', 'current', logging.WARNING)
        with fs.open(shard, 'rb') as file:
            try:
                return scan_tar(file, total, self.extensions)
            except ValueError as error:
                raise ValueError(f'{shard}: {error}') from None

    def get_data_info(self, idx: int) -> dict:
        """Give `img_path` (shard/name), `sample_idx` and `read`, a call that returns the content of the file."""
        info = super().get_data_info(idx)
        idx = info['sample_idx']
        shard = self.shards[self.shard_of[idx]]
        start, size = int(self.starts[idx]), int(self.sizes[idx])
        name = info['img_path'].removeprefix(self.data_root).lstrip('/')
        return {**info, 'img_path': f'{shard}/{name}', 'read': partial(read_range, self.protocol, shard, start, size)}

    def _drop_others(self, keep: Sequence[int]) -> None:
        self.starts, self.sizes, self.shard_of = (a[keep] for a in (self.starts, self.sizes, self.shard_of))
        super()._drop_others(keep)


def read_range(protocol: str, path: str, start: int, size: int) -> bytes:
    """Read `size` bytes from byte `start` on.

    Raises:
        OSError: if there are fewer, or more than any image has.
    """
    check_bytes(size)
    # Looked up each time: fsspec keeps one connection for each process, so forked workers do not share any.
    data = fsspec.filesystem(protocol).cat_file(path, start=start, end=start + size)
    if len(data) != size:
        raise OSError(f'{len(data)} bytes where the index promises {size}')
    return data
