"""Find image files below a folder."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from mae_mm.datasets.limits import printable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.pgm', '.ppm', '.tif', '.tiff', '.webp')


def walk(root: str) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Visit a folder and all folders below it, in sorted order.

    Links are followed; a folder reached a second time (a loop) is skipped, as are names that begin with a dot.
    A folder that cannot be read is a ValueError: its images would be missing without notice.

    Yields:
        The path of each folder, relative to `root` and ending with a slash ('' is the root), and the entries in it
        that are not folders: files, but also broken links and pipes.
    """
    seen, stack = set(), ['']
    while stack:
        folder = stack.pop()
        try:
            info = os.stat(os.path.join(root, folder))
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(os.path.join(root, folder)) as entries:
                entries = sorted((e for e in entries if not e.name.startswith('.')), key=lambda e: e.name)
        except OSError as error:
            raise ValueError(printable(
                f'{os.path.join(root, folder)} cannot be listed ({error.strerror}); make it readable, move it away, or '
                'give it a name that begins with a dot')) from error
        folders = {e.name for e in entries if _holds(e.is_dir)}
        yield folder, [e for e in entries if e.name not in folders]
        stack += [f'{folder}{e.name}/' for e in reversed(entries) if e.name in folders]


def _holds(test: Callable[[], bool]) -> bool:
    """A test of a directory entry; False for a link that leads nowhere, in circles or to a forbidden place."""
    try:
        return test()
    except OSError:
        return False


def find_images(root: str, extensions: Sequence[str] = EXTENSIONS) -> Iterator[str]:
    """Paths, relative to `root`, of the files with these extensions: of a folder first, then of its sub-folders."""
    return (folder + e.name for folder, entries in walk(root) for e in entries
            if e.name.lower().endswith(tuple(extensions)) and _holds(e.is_file))


def on_disk(path: str) -> str:
    """The path, or the same in the other Unicode form if only that exists: macOS writes é as e and an accent (NFD)."""
    if path.isascii() or os.path.exists(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ('NFC', 'NFD'))
    return next(filter(os.path.exists, forms), path)


def read_names(names: str | os.PathLike | Sequence[str]) -> Iterator[str]:
    """Names as given, or the lines of a text file; bytes that are not UTF-8 stay as they are."""
    if not isinstance(names, str | os.PathLike):
        yield from names
        return
    with open(names, encoding='utf-8', errors='surrogateescape', newline='\n') as file:
        yield from filter(None, (line.rstrip('\r\n') for line in file))


def write_names(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a text file for `read_names`, whole or not at all: several processes may write it at once."""
    part = f'{path}.{os.getpid()}'
    with open(part, 'w', encoding='utf-8', errors='surrogateescape', newline='\n') as file:
        file.writelines(f'{name}\n' for name in names)
    os.replace(part, path)
