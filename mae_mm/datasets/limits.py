"""What no file or list may ask for: a program, more memory than an image takes, or a place outside its folder."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses an image as a decompression bomb
MAX_BYTES = 8 * MAX_PIXELS  # of a file: so many pixels of four 16-bit channels, not compressed; larger is no image
# What `EXTENSIONS` promise, whatever a file is called (JPEG includes MPO of phones). Left to itself, Pillow tries some
# forty readers, and that of EPS hands the file to Ghostscript: PostScript is a program.
FORMATS = ('JPEG', 'PNG', 'BMP', 'DIB', 'GIF', 'PPM', 'TIFF', 'WEBP')
PNG_HEADER = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR'
# The next marker of a JPEG as libjpeg finds it: fill bytes, stray bytes and markers without content are skipped.
MARKER = re.compile(rb'\xff([^\x00\x01\xd0-\xd7\xff])')
STARTS_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ENDS_OF_HEADER = {0xD8, 0xD9, 0xDA}  # a second start, the end, the start of pixels


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Pillow's `Image.open` for files that are not trusted: image formats of photographs alone.

    Raises:
        OSError, ValueError: as Pillow.
    """
    return Image.open(file, formats=FORMATS)


def read_file(path: str) -> bytes:
    """The content of an image file.

    Raises:
        OSError: also if it is no regular file (a named pipe would never end) or too large for any image.
    """
    with open(path, 'rb', opener=_open_without_waiting) as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise OSError('not a regular file')
        check_bytes(info.st_size)
        return file.read()


def check_bytes(size: int) -> None:
    """Refuse to read so many bytes as one image.

    Raises:
        OSError: if they are more than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise OSError(
            f'{size:,} bytes, more than {MAX_BYTES:,}, which the largest image that is read ({MAX_PIXELS:,} pixels) '
            'has without compression')


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG's header, as libjpeg reads it; nothing for anything else."""
    match = MARKER.search(data, 2) if data[:2] == b'\xff\xd8' else None
    while match and match[1][0] not in ENDS_OF_HEADER:
        start = match.end() + 2
        end = start - 2 + max(2, int.from_bytes(data[start - 2:start], 'big'))
        yield match[1][0], start, end
        match = MARKER.search(data, end)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read the (height, width) of a JPEG, as stored, from its header; None for anything else."""
    for marker, start, _ in segments(data):
        if marker in STARTS_OF_FRAME:
            size = int.from_bytes(data[start + 1:start + 3], 'big'), int.from_bytes(data[start + 3:start + 5], 'big')
            return size if len(data) >= start + 5 else None
    return None


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header of a JPEG or PNG promises, in pixels; None for anything else."""
    if data[:16] == PNG_HEADER and len(data) >= 24:  # libpng lets unknown chunks come before; Pillow reads such files
        return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
    return jpeg_size(data)


def is_bomb(data: bytes) -> bool:
    """Whether a file of any size unpacks to more than `MAX_PIXELS`; Pillow itself asks so of other formats."""
    height, width = header_size(data) or (0, 0)
    return height * width > MAX_PIXELS


def exceeds_share(bad: int, total: int, max_share: float) -> bool:
    """Whether a training stops for so many unreadable images of a data set: more than one, and more than the share."""
    return bad > max(1, max_share * total)


def read_json(path: str | Path) -> object:
    """Parse a json file.

    Raises:
        ValueError: if it is none, or nested deeper than Python can read; names the file.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is no readable json: {error}') from error


def entries(content: object, key: str, path: str | Path) -> list[dict]:
    """The list of dicts that a json file holds under a key.

    Raises:
        ValueError: if there is something else; names the file.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f'{path}: {key!r} is no list of {{…}} there')
    return found


def leaves_folder(name: str) -> bool:
    """Whether a listed name, joined to a folder, means a file elsewhere, or none at all."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair
        return True
    return name.startswith(('/', '\\')) or bool(re.match(r'[A-Za-z]:', name)) or '\0' in name or (
        '..' in re.split(r'[/\\]', name))


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))  # a named pipe nobody writes to would wait for ever
