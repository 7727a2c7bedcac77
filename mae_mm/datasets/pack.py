"""Pack a folder of images into tars that `mae_mm.ImageTar` and webdataset read."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .image_folder import find_images
from .image_tar import INDEX_SUFFIX, scan_tar


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


def pack(root: str, out: str, shard_gb: float = 1.0, prefix: str = 'images') -> list[Path]:
    """Write every image below `root`, in the order of `ImageFolder`, into `out/prefix-000000.tar` and so on.

    The same files give the same bytes. A shard gets its name when it is complete.

    Args:
        root: folder of images.
        out: folder for the tars, made if it is not there.
        shard_gb: a shard is closed once it has so many 10^9 bytes.
        prefix: of the names.

    Returns:
        The tars.

    Raises:
        FileNotFoundError: if there is no image below `root`.
        FileExistsError: if `out` holds tars of that prefix already.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.glob(f'{prefix}-*.tar'), None):
        raise FileExistsError(f'{folder} holds {prefix}-*.tar already; remove them, or choose another --prefix')
    names = member_names(tqdm(find_images(root), desc='packing', unit='img', disable=None))
    item, shards = next(names, None), []
    if item is None:
        raise FileNotFoundError(f'{root}: no image in this folder or in folders below it')
    while item is not None:
        shard = folder / f'{prefix}-{len(shards):06}.tar'
        unfinished = shard.with_suffix('.tar.part')
        with tarfile.open(unfinished, 'w', format=tarfile.GNU_FORMAT) as tar:
            while item is not None and tar.offset < shard_gb * 1e9:
                _add(tar, os.path.join(root, item[0]), item[1])
                item = next(names, None)
        with unfinished.open('rb') as file:
            index = scan_tar(file, unfinished.stat().st_size)
        np.savez(f'{shard}{INDEX_SUFFIX}', **index._asdict())
        unfinished.rename(shard)
        shards.append(shard)
    return shards


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    content = Path(path).read_bytes()
    member = tarfile.TarInfo(name)  # no owner, no time
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))
