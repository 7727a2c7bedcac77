"""Limits on files that are not trusted: their format, size and location."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

MAX_PIXELS = 2 * 89_478_485  # above this Pillow refuses an image as a decompression bomb
MAX_BYTES = 8 * MAX_PIXELS  # of a file: MAX_PIXELS of four 16-bit channels, uncompressed
IN_TILES = '; of larger TIFFs and slides, mae_mm.TiledImages reads tiles (docs/pixels.md, "Large images")'
# By default Pillow tries some forty readers, and that of EPS runs Ghostscript on the file. JPEG includes phones' MPO.
FORMATS = ('JPEG', 'PNG', 'BMP', 'DIB', 'GIF', 'PPM', 'TIFF', 'WEBP')
PNG_HEADER = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR'
# The next marker of a JPEG as libjpeg finds it: fill bytes, stray bytes and markers without content are skipped.
MARKER = re.compile(rb'\xff([^\x00\x01\xd0-\xd7\xff])')
STARTS_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ENDS_OF_HEADER = {0xD8, 0xD9, 0xDA}  # a second start, the end, the start of pixels
ORIENTATION = 0x0112  # EXIF tag; values above 4 swap height and width


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Pillow's `Image.open`, for the formats in `FORMATS` only."""
    return Image.open(file, formats=FORMATS)


def upright_size(file: str | Path) -> tuple[int, int]:
    """(width, height) of an image file, its EXIF rotation applied, from the header; an OSError if it has none."""
    with open_image(file) as image:
        return image.size[::-1] if image.getexif().get(ORIENTATION, 1) > 4 else image.size


def open_regular(path: str) -> BinaryIO:
    """Open a file to read; an OSError for a pipe, which would never end, or a device."""
    without_waiting = getattr(os, 'O_NONBLOCK', 0)  # opening a pipe would wait for a writer
    file = open(path, 'rb', opener=lambda path, flags: os.open(path, flags | without_waiting))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError('not a regular file')
    return file


def read_file(path: str) -> bytes:
    """The content of an image file; an OSError for one that is not regular, or too large for an image."""
    with open_regular(path) as file:
        check_bytes(os.fstat(file.fileno()).st_size)
        return file.read()


def check_bytes(size: int) -> None:
    """Raise an OSError for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise OSError(
            f'{size:,} bytes, more than {MAX_BYTES:,}, the largest image of {MAX_PIXELS:,} pixels{IN_TILES}')


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG's header, as libjpeg reads it; empty for anything else."""
    match = MARKER.search(data, 2) if data[:2] == b'\xff\xd8' else None
    while match and match[1][0] not in ENDS_OF_HEADER:
        start = match.end() + 2
        end = start - 2 + max(2, int.from_bytes(data[start - 2:start], 'big'))
        yield match[1][0], start, end
        match = MARKER.search(data, end)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG, as stored, from its header; None for anything else."""
    for marker, start, _ in segments(data):
        if marker in STARTS_OF_FRAME:
            size = int.from_bytes(data[start + 1:start + 3], 'big'), int.from_bytes(data[start + 3:start + 5], 'big')
            return size if len(data) >= start + 5 else None
    return None


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a JPEG or PNG, in pixels; None for anything else."""
    if data[:16] == PNG_HEADER and len(data) >= 24:  # a PNG with other chunks before this one is left to Pillow
        return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
    return jpeg_size(data)


def exceeds_share(bad: int, total: int, max_share: float) -> bool:
    """Whether training stops for so many unreadable images: more than one, and more than the share of the data set."""
    return bad > max(1, max_share * total)


def read_json(path: str | Path) -> object:
    """Parse a JSON file in UTF-8; raises a ValueError that names the file if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text('utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error


def leaves_folder(name: str) -> bool:
    """Whether a listed name, joined to a folder, is a file outside of it, or not a valid file name."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair
        return True
    return name.startswith(('/', '\\')) or bool(re.match(r'[A-Za-z]:', name)) or '\0' in name or (
        '..' in re.split(r'[/\\]', name))


def printable(text: str) -> str:
    """A text for people and logs: bytes of file names that are not UTF-8, which no stream writes, as `\\xff`."""
    return text.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
