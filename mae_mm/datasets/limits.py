"""What no file or list may ask for: more memory than an image takes, or a place outside its folder."""

import re

MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses an image as a decompression bomb


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header of a JPEG or PNG promises, in pixels; None for anything else."""
    from .jpeg import jpeg_size  # which imports the decoder, which imports this

    if data[:8] == b'\x89PNG\r\n\x1a\n' and len(data) >= 24:
        return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')
    return jpeg_size(data)


def is_bomb(data: bytes) -> bool:
    """Whether a file of any size unpacks to more than `MAX_PIXELS`; Pillow itself asks so of other formats."""
    height, width = header_size(data) or (0, 0)
    return height * width > MAX_PIXELS


def leaves_folder(name: str) -> bool:
    """Whether a listed name, joined to a folder, means a file elsewhere, or none at all."""
    return name.startswith(('/', '\\')) or bool(re.match(r'[A-Za-z]:', name)) or '\0' in name or (
        '..' in re.split(r'[/\\]', name))
