"""Decode a JPEG partially: at a half, a quarter or an eighth of its size, or a crop alone.

A JPEG of 8x8 blocks of cosine coefficients can be decoded to 4x4, 2x2 or 1x1 pixels a block, which skips most of the
work. That is a box filter, not the antialiased one of a resize, so it is used only where many more pixels than needed
remain. Decoding a crop alone, in full size, takes an optional extension (csrc/jpeg_crop.c).
"""

from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from mae_mm.datasets.decode import DecodeError
from mae_mm.datasets.limits import MAX_PIXELS, ORIENTATION, jpeg_size, open_image, segments

try:
    from mae_mm import _jpeg_crop
except ImportError:  # not built without libjpeg's headers: whole images are decoded, with the same results
    _jpeg_crop = None

REDUCTIONS = (8, 4, 2)
MARGIN = 1.5  # pixels of a reduced crop for each pixel of the result, in height and in width
APP1 = 0xE1  # the segment of EXIF
END_OF_IMAGE, TAIL = b'\xff\xd9', 4096  # a complete file has the marker among its last bytes

Box = tuple[int, int, int, int]  # top, left, height, width


def jpeg_orientation(data: bytes) -> int:
    """EXIF orientation of a JPEG, 1 (upright) to 8; 1 if there is none."""
    for marker, start, end in segments(data):
        if marker == APP1 and data[start:start + 6] == b'Exif\0\0':
            exif = Image.Exif()
            exif.load(data[start:end])
            return exif.get(ORIENTATION, 1)
    return 1


def whole_size(data: bytes) -> tuple[int, int] | None:
    """(height, width), as stored, of a JPEG that is not a bomb and not truncated; None for anything else."""
    size = jpeg_size(data)
    return size if size and size[0] * size[1] <= MAX_PIXELS and END_OF_IMAGE in data[-TAIL:] else None


def croppable_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an image from which `decode_crop` may take a crop, else None."""
    size = whole_size(data) if _jpeg_crop else None
    try:
        return size if size and jpeg_orientation(data) == 1 else None
    except Exception:  # Pillow's EXIF parser raises anything
        return None


def decode_crop(data: bytes, box: Box, channels: str) -> np.ndarray | None:
    """Decode a box of a JPEG that `croppable_size` accepts, to the pixels of a whole decode: (height, width, C) uint8.

    None for progressive, CMYK and damaged files, which `decode` reads or reports.
    """
    crop = np.empty((*box[2:], 1 if channels == 'gray' else 3), np.uint8)
    return crop if _jpeg_crop.decode_crop(data, crop, crop.shape[2], *box) else None


def reducible_size(data: bytes, size: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) of the upright image if a crop of it, resized to `size`, could come from a reduced decode."""
    stored = whole_size(data)  # OpenCV does not report a truncated file
    if stored is None or min(stored) < MARGIN * REDUCTIONS[-1] * min(size):
        return None
    try:
        with open_image(BytesIO(data)) as img:
            if img.mode not in ('RGB', 'L'):
                return None
            orientation = img.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise anything; `decode` reports what is wrong
        return None
    if orientation != 1 and any(side % REDUCTIONS[0] for side in stored):
        return None  # the last, incomplete block would come first
    return stored[::-1] if orientation > 4 else stored


def reduction(boxes: Sequence[Box], size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 that leaves each box `MARGIN` times `size`, or 1."""
    room = min(min(box[2] / size[0], box[3] / size[1]) for box in boxes)
    return next((factor for factor in REDUCTIONS if room >= MARGIN * factor), 1)


def decode_reduced(data: bytes, factor: int, channels: str) -> np.ndarray:
    """Decode a JPEG, RGB or gray, to 1 / `factor` (2, 4 or 8) of its size and apply its EXIF orientation.

    Returns (ceil(H / factor), ceil(W / factor), C) uint8; a broken file is a DecodeError.
    """
    flags = getattr(cv2, f'IMREAD_REDUCED_{"GRAYSCALE" if channels == "gray" else "COLOR"}_{factor}')
    try:
        img = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # larger than OpenCV allows
        raise DecodeError(f'OpenCV: {error.err}') from None
    if img is None:
        raise DecodeError('broken JPEG')
    return img[..., None] if channels == 'gray' else cv2.cvtColor(img, cv2.COLOR_BGR2RGB, dst=img)


def reduce_box(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """Move a box of an image of (height, width) `size` into the reduced image, to whole pixels inside it."""
    top, left = box[0] // factor, box[1] // factor
    height = min(round(box[2] / factor), size[0] // factor - top)
    width = min(round(box[3] / factor), size[1] // factor - left)
    return top, left, height, width
