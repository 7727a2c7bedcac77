"""Pack a folder of images into tars that `mae_mm.ImageTar` and webdataset read."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mae_mm.datasets.image_folder import find_images
from mae_mm.datasets.image_tar import INDEX_SUFFIX, scan_tar


def member_names(paths: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Give each path a name in the tar.

    webdataset joins files whose names are equal up to the first dot into one sample: dots within a name become `_`,
    and a name that is then taken gets a number.

    Yields:
        (path, name).
    """
    seen, folder = set(), None
    for path in paths:
        if os.path.dirname(path) != folder:
            seen, folder = set(), os.path.dirname(path)
        stem, extension = os.path.splitext(os.path.basename(path))
        stem, number = stem.replace('.', '_'), 1
        unique = stem
        while unique in seen:
            number += 1
            unique = f'{stem}_{number}'
        seen.add(unique)
        yield path, os.path.join(folder, unique + extension.lower())


def pack(root: str, out: str, shard_gb: float = 1.0, prefix: str = 'images') -> tuple[list[Path], int]:
    """Write every image below `root`, in the order of `ImageFolder`, into `out/prefix-000000.tar` and so on.

    The same files give the same bytes. A shard gets its name when it is complete; started again, complete ones are kept
    if they hold the same files, by name and size.

    Args:
        root: folder of images.
        out: folder for the tars, made if it is not there.
        shard_gb: a shard is closed once it has so many 10^9 bytes.
        prefix: of the names.

    Returns:
        The tars, and how many images are in them.

    Raises:
        FileNotFoundError: if there is no image below `root`.
        FileExistsError: if `out` holds tars of that prefix with other files.
        ValueError: if `shard_gb` is not above 0, or `prefix` is no plain name.
    """
    if not shard_gb > 0:
        raise ValueError(f'--shard-gb {shard_gb} must be above 0')
    if os.path.basename(prefix) != prefix or not prefix:
        raise ValueError(f'--prefix {prefix!r} must be a name without folders; those go into OUT')
    if not os.path.isdir(root):
        raise FileNotFoundError(f'{root}: no such folder')
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'{folder} is a file; OUT must be a folder')
    folder.mkdir(parents=True, exist_ok=True)
    names = member_names(tqdm(find_images(root), desc='packing', unit='img', disable=None))
    item, shards, count = next(names, None), [], 0
    if item is None:
        raise FileNotFoundError(f'{root}: no image in this folder or in folders below it')
    while item is not None:
        shard = folder / f'{prefix}-{len(shards):06}.tar'
        if shard.exists():
            for name, size in members(shard):
                if item is None or (name, size) != (item[1], os.path.getsize(os.path.join(root, item[0]))):
                    raise _other_files(shard, f'it has {name} where {root} has {item and item[1]}')
                item, count = next(names, None), count + 1
            shards.append(shard)
            continue
        unfinished = shard.with_suffix('.tar.part')
        try:
            with tarfile.open(unfinished, 'w', format=tarfile.GNU_FORMAT) as tar:
                while item is not None and tar.offset < shard_gb * 1e9:
                    _add(tar, os.path.join(root, item[0]), item[1])
                    item, count = next(names, None), count + 1
        except BaseException:
            unfinished.unlink()
            raise
        with unfinished.open('rb') as file:
            index = scan_tar(file, unfinished.stat().st_size)
        np.savez(f'{shard}{INDEX_SUFFIX}', **index._asdict())
        unfinished.rename(shard)
        shards.append(shard)
    if left := sorted({*folder.glob(f'{prefix}-*.tar')} - {*shards}):
        raise _other_files(left[0], f'{root} has no files left for it')
    return shards, count


def members(shard: Path) -> list[tuple[str, int]]:
    """Name and bytes of each image of a tar.

    Raises:
        FileExistsError: if it is cut short, or no tar.
    """
    try:
        with shard.open('rb') as file:
            index = scan_tar(file, shard.stat().st_size)
    except ValueError as error:
        raise FileExistsError(f'{shard} is there already: {error}') from None
    return [(index.name(i), int(size)) for i, size in enumerate(index.sizes)]


def _other_files(shard: Path, why: str) -> FileExistsError:
    return FileExistsError(
        f'{shard} is there already, with other files: {why}; remove the tars, or choose another --prefix')


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    content = Path(path).read_bytes()
    member = tarfile.TarInfo(name)  # no owner, no time
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
