"""Pack a folder of images into tars that `mae_mm.ImageTar` and webdataset read."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mae_mm.datasets.find import find_images
from mae_mm.datasets.image_tar import INDEX_SUFFIX, scan_tar


def member_names(paths: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Each path with its name in the tar.

    webdataset joins files whose names are equal up to the first dot into one sample. Dots within a name therefore
    become `_`, and a name that is already taken gets a number.
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

    The same files give the same bytes. After an interruption, complete tars are kept if they hold the same files, by
    name and size; tars of that prefix with other files are a FileExistsError. A tar is closed at `shard_gb` (10^9
    bytes). Returns the tars, and the number of images in them.
    """
    if not shard_gb > 0:
        raise ValueError(f'--shard-gb {shard_gb} must be above 0')
    names = member_names(tqdm(find_images(root), desc='packing', unit='img', disable=None))
    item, shards, count, folder = next(names, None), [], 0, Path(out)
    if item is None:
        raise FileNotFoundError(f'{root}: no image in this folder or in folders below it')
    folder.mkdir(parents=True, exist_ok=True)
    while item is not None:
        shard = folder / f'{prefix}-{len(shards):06}.tar'
        shards.append(shard)
        if shard.exists():
            index = scan_tar(shard)
            for i, size in enumerate(index.sizes):
                if item is None or (index.name(i), size) != (item[1], os.path.getsize(os.path.join(root, item[0]))):
                    raise FileExistsError(
                        f'{shard} exists with other files: it has {index.name(i)} where {root} has {item and item[1]}; '
                        'remove the tars, or choose another --prefix')
                item, count = next(names, None), count + 1
            continue
        unfinished = shard.with_suffix('.tar.part')
        with tarfile.open(unfinished, 'w', format=tarfile.GNU_FORMAT) as tar:
            while item is not None and tar.offset < shard_gb * 1e9:
                content = Path(root, item[0]).read_bytes()
                member = tarfile.TarInfo(item[1])  # no owner, no time
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
                item, count = next(names, None), count + 1
        np.savez(f'{shard}{INDEX_SUFFIX}', **scan_tar(unfinished)._asdict())
        unfinished.rename(shard)
    if left := sorted({*folder.glob(f'{prefix}-*.tar')} - {*shards}):
        raise FileExistsError(f'{left[0]} exists, and {root} has no files left for it; remove it')
    return shards, count
