"""Images in plain tar files, on disk or wherever fsspec reads."""

import io
import logging
import tarfile
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
from mmengine.logging import print_log

from mae_mm.datasets.find import EXTENSIONS, read_names
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.limits import check_bytes
from mae_mm.registry import DATASETS

INDEX_SUFFIX = '.index.npz'
HEADER = 512  # bytes, before each file of a tar


class TarIndex(NamedTuple):
    """Positions of the images in one tar; saved beside it, so that the headers need not be read."""

    names: np.ndarray  # (bytes,) uint8: the members' names, joined
    ends: np.ndarray  # (N,) int64: end of each name
    starts: np.ndarray  # (N,) int64: first byte of each file in the tar
    sizes: np.ndarray  # (N,) int64: bytes of each file
    total: np.ndarray  # () int64: bytes of the tar

    def name(self, i: int) -> str:
        begin = self.ends[i - 1] if i else 0
        return self.names[begin:self.ends[i]].tobytes().decode('utf-8', 'surrogateescape')


def scan_tar(path: str | Path, protocol: str = 'file', extensions: Sequence[str] = EXTENSIONS) -> TarIndex:
    """Find the images in a tar by its headers; a ValueError if it is not a plain tar."""
    names, ends, starts, sizes = bytearray(), array('q'), array('q'), array('q')
    fs = fsspec.filesystem(protocol)
    try:
        with fs.open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                if member.isreg() and member.name.lower().endswith(tuple(extensions)):
                    names += member.name.encode('utf-8', 'surrogateescape')
                    ends.append(len(names))
                    starts.append(member.offset_data)
                    sizes.append(member.size)
    except tarfile.ReadError as error:
        raise ValueError(
            f'{path}: not a plain and complete tar ({error}); unpack a compressed one, copy a truncated one again'
        ) from None
    columns = (np.frombuffer(column, dtype=np.int64) for column in (ends, starts, sizes))
    return TarIndex(np.frombuffer(names, dtype=np.uint8), *columns, np.asarray(fs.size(path), dtype=np.int64))


def read_index(file: io.IOBase, total: int) -> TarIndex:
    """The index of a tar of `total` bytes; a ValueError if it is damaged, or of another tar."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = TarIndex(*(arrays[name] for name in TarIndex._fields))
        columns = np.stack([index.ends, index.starts, index.sizes]).astype(np.int64, casting='safe')  # (3, N)
        fits = index.total == total and (columns >= 0).all() and (columns[1] + columns[2] <= total).all()
        ordered = (np.diff(index.ends) > 0).all() and index.ends[-1:].sum() == len(index.names)
    except Exception as error:  # zip, zlib and NumPy raise whatever they raise
        raise ValueError('is damaged') from error
    if not fits or not ordered or index.names.dtype != np.uint8:
        raise ValueError('belongs to another tar')
    return index


def is_header_of(header: bytes, name: str, size: int) -> bool:
    """Whether the 512 bytes before a file in a tar are the header of this file.

    Long names are cut there, and some programs write ? for what is not ASCII.
    """
    written = header[:100].split(b'\0')[0]
    if header[257:263] == b'ustar\0' and header[345:346] != b'\0':  # the first part of a long name
        written = header[345:500].split(b'\0')[0] + b'/' + written
    try:
        same_size = int(header[124:136].strip(b' \0') or b'0', 8) == size
    except ValueError:  # 8 GB and more are written in another way
        same_size = True
    same_name = name.encode('utf-8', 'surrogateescape').startswith(written.lstrip(b'/'))
    return same_size and (same_name or (not name.isascii() and b'?' in written))


def find_shards(root: str) -> tuple[str, list[str]]:
    """The fsspec protocol, and the sorted paths, of the tars at `root`; see `ImageTar`."""
    try:
        fs, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f'data_root={root!r} cannot be opened: {error}') from None
    if '*' in path:
        found = fs.glob(path)
    elif fs.isdir(path):
        found = fs.glob(path.rstrip('/') + '/*.tar')
        indexed = {index.removesuffix(INDEX_SUFFIX) for index in fs.glob(path.rstrip('/') + f'/*.tar{INDEX_SUFFIX}')}
        if gone := sorted(indexed - set(found)):
            raise FileNotFoundError(
                f'{gone[0]} is missing, but its index is there ({len(gone)} such tars); copy it, or delete the index')
    else:
        found = [path] if fs.exists(path) else []
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol, sorted(found)


@DATASETS.register_module()
class ImageTar(ImageFolder):
    """Every image in one or several plain tars; otherwise like `ImageFolder`, with the same arguments.

    `names` are those of the tar and of the file in it: `shard-000.tar/n01/1.jpg`.

    Each image is read by its position, so samplers shuffle the images of all tars and split them over processes and
    workers as they do files. `tools/pack_tar.py` writes such tars with an index beside each; without an index, the
    headers are read at the start.

    Args:
        data_root: a tar, a folder of tars, or a pattern with `*` such as `s3://bucket/train-*.tar`: a path or any URL
            of fsspec.
    """

    def _join_prefix(self) -> None:
        """Leave `data_root` as it is; mmengine would look for a file backend of its own."""

    def _find(self, first_n: int | None) -> tuple[np.ndarray, np.ndarray]:
        self.protocol, self.shards = find_shards(self.data_root)
        indices = [self._index(shard) for shard in self.shards]
        if not sum(len(index.ends) for index in indices):
            found = f'no image ({" ".join(self.extensions)}) in {len(indices)} tars' if indices else 'no tar'
            raise FileNotFoundError(
                f'{self.data_root}: {found}. Expected a tar of images, a folder of tars, or a pattern with * (not '
                'compressed, no {braces}); to make tars: python tools/pack_tar.py FOLDER_OF_IMAGES FOLDER_FOR_TARS')
        self.starts = np.concatenate([index.starts for index in indices])  # (N,) first byte in the shard
        self.sizes = np.concatenate([index.sizes for index in indices])  # (N,) bytes
        self.shard_of = np.repeat(np.arange(len(indices)), [len(index.ends) for index in indices])
        lengths = np.cumsum([0, *(len(index.names) for index in indices)])
        ends = np.concatenate([index.ends + before for index, before in zip(indices, lengths, strict=False)])
        return np.concatenate([index.names for index in indices]), ends

    def _choose(self) -> Sequence[int]:
        if self.names is None:
            return super()._choose()
        wanted = set(read_names(self.names))
        found = np.array([i for i in range(len(self.starts)) if self._name(i) in wanted], dtype=np.int64)
        if not len(found):
            raise FileNotFoundError(f'{self.data_root}: none of the {len(wanted)} images that {self.names} lists')
        return found

    def _index(self, shard: str) -> TarIndex:
        """Read the index beside a shard, or the headers in it."""
        fs = fsspec.filesystem(self.protocol)
        if self.extensions == EXTENSIONS and fs.exists(shard + INDEX_SUFFIX):
            try:
                with fs.open(shard + INDEX_SUFFIX, 'rb') as file:
                    index = read_index(file, fs.size(shard))
                for i in {0, len(index.ends) - 1} if len(index.ends) else ():
                    start = int(index.starts[i])
                    header = fs.cat_file(shard, start=start - HEADER, end=start)
                    if len(header) != HEADER or not is_header_of(header, index.name(i), int(index.sizes[i])):
                        raise ValueError('belongs to another tar')
                return index
            except (OSError, ValueError) as error:
                print_log(f'{shard + INDEX_SUFFIX} {error}: reading headers', 'current', logging.WARNING)
        return scan_tar(shard, self.protocol, self.extensions)

    def _source(self, i: int) -> dict:
        """`img_path` (tar/name), and `read`, a call that returns the content of the file."""
        name, shard = super()._name(i).lstrip('/'), self.shards[self.shard_of[i]]
        read = partial(read_member, self.protocol, shard, int(self.starts[i]), int(self.sizes[i]), name)
        return {'img_path': f'{shard}/{name}', 'read': read}

    def _name(self, i: int) -> str:
        return f'{Path(self.shards[self.shard_of[i]]).name}/{super()._name(i)}'


def read_member(protocol: str, path: str, start: int, size: int, name: str) -> bytes:
    """Read the `size` bytes of a file that begins at byte `start` of a tar; an OSError if it is not there."""
    check_bytes(size)
    # fsspec keeps one connection for each process, so that forked workers do not share one.
    data = fsspec.filesystem(protocol).cat_file(path, start=start - HEADER, end=start + size)
    if len(data) != HEADER + size or not is_header_of(data[:HEADER], name, size):
        raise OSError(f'not at its position in {path}: the tar was changed, delete its {INDEX_SUFFIX}')
    return data[HEADER:]
