"""Decode every image of a data set before training, in parallel, and report the unreadable ones."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.find import EXTENSIONS, walk
from mae_mm.datasets.image_tar import ImageTar
from mae_mm.datasets.limits import MAX_PIXELS, exceeds_share, leaves_folder, read_file, read_json
from mae_mm.datasets.pixels import STRIP, Reading

PHOTOS = Reading()
CHUNK = 64  # files per task of a process
SHOWN = 8  # reasons
PROBED = 50  # images of a COCO file that are looked for in each folder


class Packed(str):
    """The path of a file in a tar; `read()` returns its content."""


class BadFile(NamedTuple):
    """A file that training cannot use."""

    path: str
    reason: str


def list_files(kind: str, root: str, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """The images of a data set in one of `LAYOUTS`; `root` of 'coco' may be an annotation file."""
    files = sorted(set(LAYOUTS[kind](root, tuple(extensions))))
    if not files:
        raise FileNotFoundError(f'{os.path.abspath(root)}: no data set in the layout of {kind}')
    return files


def check_files(
    files: list[str], workers: int, progress: bool = True, reading: Reading = PHOTOS,
) -> list[BadFile]:
    """Decode every file as training does, in processes: a file that crashes the decoder is reported like others."""
    bad, done, check = [], 0, partial(check_chunk, reading=reading)
    with tqdm(total=len(files), desc='checking', unit='img', disable=None if progress else True) as bar:
        while done < len(files):
            chunks = [files[i:i + CHUNK] for i in range(done, len(files), CHUNK)]
            with ProcessPoolExecutor(max(1, workers)) as pool:
                try:
                    for found, chunk in zip(pool.map(check, chunks), chunks, strict=True):
                        bad += found
                        done += len(chunk)
                        bar.update(len(chunk))
                        bar.set_postfix(bad=len(bad))
                except BrokenProcessPool:
                    bad += [one for path in files[done:done + CHUNK] for one in _check_alone(check, path)]
                    done += CHUNK
    return bad


def _check_alone(check: Callable[[list[str]], list[BadFile]], path: str) -> list[BadFile]:
    try:
        with ProcessPoolExecutor(1) as pool:
            return pool.submit(check, [path]).result()
    except BrokenProcessPool:
        return [BadFile(path, 'crashes the decoder')]


def check_chunk(files: Iterable[str], reading: Reading = PHOTOS) -> list[BadFile]:
    """The files that cannot be decoded."""
    return [BadFile(path, reason) for path in files if (reason := what_is_wrong(path, reading))]


def what_is_wrong(path: str, reading: Reading = PHOTOS) -> str:
    """Why a file cannot be decoded; '' if it can."""
    try:
        if reading.dtype == 'uint8':
            decode(path.read() if isinstance(path, Packed) else read_file(path), 'rgb')
        else:
            source = path.read() if isinstance(path, Packed) else os.path.abspath(path)
            opened = reading.open(source, 'unchanged', path)
            height, width, _ = opened.shape
            step = height if height * width <= MAX_PIXELS else STRIP  # larger ones are read in crops or tiles
            opened[:step, :]  # an error, too, if no pixel of the whole image has data
            for top in range(step, height, step):
                opened.read(slice(top, top + step), slice(width))
    except (DecodeError, OSError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ''


def report(files: list[str], bad: list[BadFile], max_share: float) -> str:
    """A summary: how many, for which reasons, and whether training would stop."""
    if not bad:
        return f'{len(files)} files, all good'
    reasons = Counter(_without_path(one) for one in bad)
    others = len(reasons) - SHOWN
    stops = exceeds_share(len(bad), len(files), max_share)
    return '\n'.join([
        f'{len(bad)} of {len(files)} files cannot be read ({len(bad) / len(files):.2%}):',
        *(f'  {count:>7}  {reason}' for reason, count in reasons.most_common(SHOWN)),
        *([f'  and {others} other reasons'] if others > 0 else []),
        f'{"too many, training would stop" if stops else "training continues"}: {max_share:.2%} of the files, and one '
        'file in any case, are tolerated (default_hooks.bad_data)'])


def _without_path(one: BadFile) -> str:
    """The reason, the same for all files that have it."""
    return one.reason.replace(one.path, '').removeprefix('cannot read : ').strip(' :')


def _folder(root: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Names that look like images, also broken links and pipes, which training leaves out."""
    if not os.path.isdir(root):
        raise FileNotFoundError(f'{os.path.abspath(root)}: no such folder')
    for folder, found in walk(root):
        yield from (os.path.join(root, folder, e.name) for e in found if e.name.lower().endswith(extensions))


def _coco(root: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Images of a COCO file, or of all those in a folder and its `annotations`, wherever below the folder they are."""
    path = Path(root)
    files = [path] if path.is_file() else sorted([*path.glob('*.json'), *path.glob('annotations/*.json')])
    base = path if path.is_dir() else path.parent.parent if path.parent.name == 'annotations' else path.parent
    for file in files:
        names = _listed(file, path.is_file())
        folders = [base / file.stem.removeprefix('instances_'), base, *sorted(base.glob('*/'))]
        sample = names[::-(-len(names) // PROBED)] if names else []
        folder = max(folders, key=lambda folder: sum((folder / name).is_file() for name in sample))
        yield from (str(folder / name) for name in names)


def _listed(file: Path, named: bool) -> list[str]:
    """File names of the `images` in a JSON file; one without them lists something else: refused if it was `named`."""
    content = read_json(file)
    images = content.get('images', []) if isinstance(content, dict) else []
    if named and not images:
        raise ValueError(f"{file} is not a COCO annotation file: it must hold a list 'images' of {{'file_name': …}}")
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise ValueError(f"{file}: 'images' must be a list of {{…}}")
    names = [image.get('file_name') for image in images]
    for name in names:
        if not isinstance(name, str) or not name or leaves_folder(name):
            raise ValueError(f'{file}: {name!r} is not the name of a file inside the folder of the images')
    return names


def _tar(root: str, extensions: tuple[str, ...]) -> Iterator[Packed]:
    dataset = ImageTar(root, extensions=extensions)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path = Packed(info['img_path'])
        path.read = info['read']
        yield path


LAYOUTS: dict[str, Callable[[str, tuple[str, ...]], Iterator[str]]] = dict(folder=_folder, coco=_coco, tar=_tar)
