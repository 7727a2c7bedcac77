"""An opened image of any format, whose pixels are not yet read."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from mae_mm.datasets.decode import DecodeError
from mae_mm.datasets.limits import IN_TILES, MAX_BYTES, MAX_PIXELS


class Stored(NamedTuple):
    """An image as its file holds it, opened, not yet read."""

    shape: tuple[int, int, int]  # H, W, bands
    dtype: np.dtype
    read: Callable[[slice, slice, Sequence[int]], np.ndarray]  # rows, columns, bands from 0 -> (h, w, C)
    names: tuple[str | None, ...] = ()  # of the bands, if they have any
    nodata: float | None = None  # the value that the file names for pixels without data
    window: tuple[float, float] | None = None  # the range of values that a DICOM file wants shown
    inverted: float | None = None  # values are this number minus those that the file has
    levels: tuple[float, ...] = (1.0,)  # how many times smaller each level of the file's pyramid is
    place: dict | None = None  # `crs` and `transform` of a GeoTIFF


def whole(array: np.ndarray, **known: object) -> Stored:
    """An image that has been read: (H, W, bands)."""
    return Stored(array.shape, array.dtype, lambda rows, columns, bands: array[rows, columns][..., bands], **known)


def check_size(height: int, width: int, bands: int, itemsize: int) -> None:
    """Refuse what would take more memory than any image, before it is taken."""
    if height * width > MAX_PIXELS or height * width * bands * itemsize > MAX_BYTES:
        raise DecodeError(
            f'{height} x {width} pixels of {bands} bands, {itemsize} bytes each: a decompression bomb, or too large to '
            f'be read at once ({MAX_PIXELS:,} pixels and {MAX_BYTES:,} bytes at most){IN_TILES}')


def package(name: str, extra: str = 'pixels', wheels: str = '') -> ModuleType:
    """Import a package of an extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed, which reads this format: pip install -e '.[{extra}]' (or pip install "
            f'{wheels or name})') from error
