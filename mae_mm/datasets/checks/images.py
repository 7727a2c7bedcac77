"""Every image of a data set decoded once, before a training meets the bad ones."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.image_folder import EXTENSIONS, walk
from mae_mm.datasets.image_tar import ImageTar
from mae_mm.datasets.limits import entries, exceeds_share, leaves_folder, read_file, read_json
from mae_mm.datasets.listed_images import read_labels

CHUNK = 64  # files per task of a process
KINDS = ('folder', 'coco', 'ade20k', 'inaturalist', 'places', 'tar')


class Packed(str):
    """The path of a file within a tar, with `read`, a call that returns its content."""


class BadFile(NamedTuple):
    """A file that training cannot use."""

    path: str
    reason: str


def list_files(kind: str, root: str) -> list[str]:
    """The images (and label maps) of a data set in the layout of its release.

    Args:
        kind: one of `KINDS`.
        root: folder of the data set.

    Raises:
        FileNotFoundError: if nothing of that layout is there.
        ValueError: if a folder or an annotation file cannot be read, or names a file outside its folder.
    """
    layouts = dict(folder=_folder, coco=_coco, ade20k=_ade20k, inaturalist=_inaturalist, places=_places,
                   tar=_tar)
    try:
        files = sorted(set(layouts[kind](Path(root) if kind != 'tar' else root)))  # tars: or a URL
    except PermissionError as error:
        raise ValueError(f'{error.filename} may not be read: {error.strerror}') from error
    if not files:
        raise FileNotFoundError(f'{Path(root).absolute()}: nothing there in the layout of {kind}')
    return files


def check_files(files: list[str], workers: int, progress: bool = True) -> list[BadFile]:
    """Decode every file as training does, in processes: one that crashes a decoder is named, not fatal."""
    chunks = [files[i:i + CHUNK] for i in range(0, len(files), CHUNK)]
    bad, bar = [], tqdm(total=len(files), desc='checking', unit='img', disable=None if progress else True)
    with bar:
        for chunk, found in zip(chunks, _in_processes(check_chunk, chunks, workers), strict=True):
            bad += check_alone(chunk) if found is None else found
            bar.update(len(chunk))
            bar.set_postfix(bad=len(bad))
    return bad


def check_chunk(files: Iterable[str]) -> list[BadFile]:
    """Those files that cannot be decoded."""
    return [BadFile(path, reason) for path in files if (reason := what_is_wrong(path))]


def check_alone(files: Iterable[str]) -> list[BadFile]:
    """The same, each in a process of its own."""
    bad = []
    for path in files:
        found = next(_in_processes(check_chunk, [[path]], 1))
        bad += [BadFile(path, 'crashes the decoder')] if found is None else found
    return bad


def what_is_wrong(path: str) -> str:
    """Why a file cannot be decoded; '' if it can."""
    try:
        decode(path.read() if isinstance(path, Packed) else read_file(path), 'rgb')
    except (DecodeError, OSError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ''


def _in_processes(function: Callable, tasks: list, workers: int) -> Iterator[list[BadFile] | None]:
    """Results in order; None for a task whose process died."""
    remaining = list(tasks)
    while remaining:
        with ProcessPoolExecutor(max(1, workers)) as pool:
            futures = [pool.submit(function, task) for task in remaining]
            done = 0
            try:
                for future in futures:
                    yield future.result()
                    done += 1
            except Exception as error:
                if type(error).__name__ != 'BrokenProcessPool':
                    raise
                yield None
                done += 1
            remaining = remaining[done:]


def report(files: list[str], bad: list[BadFile], max_share: float) -> str:
    """A summary: how many, of which kinds, and whether a training would go on."""
    if not bad:
        return f'{len(files)} files, all good'
    kinds = Counter(' '.join(one.reason.split()[:4]) for one in bad)
    lines = [f'{len(bad)} of {len(files)} files cannot be read ({len(bad) / len(files):.2%}):']
    lines += [f'  {count:>7}  {kind} …' for kind, count in kinds.most_common(8)]
    share = f'the share of {max_share:.2%} (default_hooks.bad_data)'
    verdict = (
        f'too many: a training that meets them stops, above {share}' if too_many(files, bad, max_share)
        else f'a training goes on: within {share}' if len(bad) <= max_share * len(files)
        else f'a training goes on: it bears one file, whatever {share}')
    return '\n'.join([*lines, verdict])


def too_many(files: list[str], bad: list[BadFile], max_share: float) -> bool:
    """Whether a training that meets all bad files stops."""
    return exceeds_share(len(bad), len(files), max_share)


def _folder(root: Path) -> Iterator[str]:
    """What looks like an image by its name, broken links and pipes included, which training leaves out."""
    if not root.is_dir():
        raise FileNotFoundError(f'{root.absolute()}: no such folder')
    for folder, found in walk(str(root)):
        yield from (os.path.join(root, folder, e.name) for e in found if e.name.lower().endswith(EXTENSIONS))


def _coco(root: Path) -> Iterator[str]:
    from mae_mm.datasets.checks.coco import read_annotations

    for file in sorted((root / 'annotations').glob('instances_*.json')):
        folder = root / file.stem.removeprefix('instances_')
        for image in read_annotations(file)['images']:
            yield _inside(folder, image.get('file_name'), file)


def _ade20k(root: Path) -> Iterator[str]:
    for part in ('images', 'annotations'):
        for split in ('training', 'validation'):
            folder = root / part / split
            if folder.is_dir():
                yield from _folder(folder)
    images, maps = (
        {path.stem for path in (root / part).glob('*/*')} for part in ('images', 'annotations'))
    if lonely := sorted(images ^ maps):
        raise ValueError(f'{root}: {len(lonely)} images without label map, or the reverse, e.g. {lonely[:3]}')


def _inaturalist(root: Path) -> Iterator[str]:
    for file in sorted(root.glob('*.json')):
        content = read_json(file)
        if isinstance(content, dict) and 'images' in content:  # others list names of categories, or places
            for image in entries(content, 'images', file):
                yield _inside(root, image.get('file_name'), file)


def _places(root: Path) -> Iterator[str]:
    from mae_mm.datasets.places365 import FOLDERS, LISTS

    for split, name in LISTS.items():
        for folder in (folder for folders in FOLDERS[split].values() for folder in folders):
            if (root / name).is_file() and (root / folder).is_dir():
                for image, _ in read_labels(str(root / name)):
                    yield _inside(root / folder, image.lstrip('/'), root / name)


def _tar(root: str) -> Iterator[Packed]:
    dataset = ImageTar(root)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path = Packed(info['img_path'])
        path.read = info['read']
        yield path


def _inside(folder: Path, name: object, listed_in: Path) -> str:
    if not isinstance(name, str) or not name or leaves_folder(name):
        raise ValueError(f'{listed_in}: {name!r} is not the name of a file inside {folder}')
    return str(folder / name)
