"""From a file of any depth and number of bands to an array: bands, no-data, windows of values, types."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mae_mm.datasets.decode import DecodeError, convert_array
from mae_mm.datasets.pixel_files import open_stored
from mae_mm.datasets.stored import Stored, check_size

STRIP = 256  # rows
DTYPES = ('uint8', 'keep', 'int8', 'uint16', 'int16', 'float32')


class Part(NamedTuple):
    """A box in a level of a file's pyramid, in pixels of that level; without a size, all of it."""

    level: int = 0
    top: int = 0
    left: int = 0
    height: int | None = None
    width: int | None = None


WHOLE = Part()


@dataclass(frozen=True)
class Reading:
    """How the pixels of files are read; the options that all `mae_mm.Load…` transforms share.

    Args:
        dtype: 'uint8' reads 8-bit photographs (`decode`). 'keep' reads whatever a file has: integers of 8 and 16 bits,
            floats as float32. Another type is the same, and refuses files whose values it might not hold exactly:
            batches need one type.
        bands: how many bands each image must have, or which to take, in this order: numbers from 1, or names that a
            GeoTIFF gives its bands. All of them by default.
        nodata: pixels without data: 'file' takes the value that a file names, a number is taken for all files, None
            for none. They become NaN, also where one is infinite; images with such a value are float32.
        window: range of values (DICOM's centre and width), outside of which they are cut: two numbers, as the file has
            them after rescaling and before an inversion, or 'file' to take what a DICOM file names.
    """

    dtype: str = 'uint8'
    bands: int | Sequence[int | str] | None = None
    nodata: float | str | None = 'file'
    window: tuple[float, float] | str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.dtype == 'uint8' and (self.bands is not None or self.nodata != 'file' or self.window is not None):
            raise ValueError("bands, nodata and window are for dtype='keep' or a type of more than 8 bits")
        numbers = [self.bands] if isinstance(self.bands, int) else self.bands or ()
        if isinstance(self.bands, str) or any(isinstance(one, int) and one < 1 for one in numbers):
            one = f': [{self.bands!r}]; on a command line bands={self.bands},' if isinstance(self.bands, str) else ''
            raise ValueError(
                f'bands={self.bands!r} must be a number of bands, or a list of numbers from 1 or of names{one}')
        for key, size in (('nodata', ()), ('window', (2, ))):
            value = getattr(self, key)
            if value not in ('file', None) and (isinstance(value, str) or np.shape(value) != size):
                kind = 'two numbers, centre and width' if size else 'a number'
                raise ValueError(f"{key}={value!r} must be {kind}, 'file' or None")

    def open(self, source: bytes | str, channels: str, name: str, part: Part = WHOLE) -> 'OpenedImage':
        """Open the content or the path of a file; a DecodeError names it, a ValueError a package that is missing."""
        try:
            return OpenedImage(open_stored(source, part.level), self, channels, name, part)
        except ImportError as error:
            raise ValueError(f'{name}: {error}') from error
        except Exception as error:  # parsers raise whatever they raise
            raise DecodeError(f'cannot read {name}: {str(error) or type(error).__name__}') from error

    def finish(
        self, img: np.ndarray, nodata: float | None = None, window: tuple[float, float] | None = None,
        inverted: float | None = None,
    ) -> np.ndarray:
        """(h, w, C) as stored -> with NaN for no data, cut to the window, in the type to deliver; order as stored."""
        nodata = self._nodata(nodata)
        out = self._dtype(img.dtype, nodata)
        values = img.astype(out if out.kind == 'f' else img.dtype.newbyteorder('='), copy=False)
        if out.kind == 'f':
            known = np.isfinite(values) if nodata is None else np.isfinite(values) & (img != nodata)
            values = np.where(known, values, out.type('nan'))
        if isinstance(self.window, Sequence) and self.window != 'file':
            window = self.window[0] - self.window[1] / 2, self.window[0] + self.window[1] / 2
            window = window if inverted is None else (inverted - window[1], inverted - window[0])
        if self.window and window:
            values = np.clip(values.astype(np.float32), *window)
            if out.kind != 'f':
                values = values.round().clip(np.iinfo(out).min, np.iinfo(out).max)  # the window may reach further
        return values.astype(out, copy=not values.flags.writeable)  # mapped files are not writeable; the order stays

    def _nodata(self, nodata: float | None) -> float | None:
        if self.dtype == 'uint8':
            return None
        return nodata if self.nodata == 'file' else self.nodata

    def _dtype(self, stored: np.dtype, nodata: float | None) -> np.dtype:
        """The type to deliver; a DecodeError if it does not hold the values."""
        if stored.kind not in 'uif' or (stored.kind != 'f' and stored.itemsize > 2):
            raise DecodeError(f'pixels of {stored}; integers of 8 and 16 bits and floats are read: convert the file')
        found = np.dtype(np.float32 if stored.kind == 'f' or nodata is not None else stored.newbyteorder('='))
        if self.dtype == 'keep':
            return found
        if not np.can_cast(found, self.dtype):
            why, way = ('', "dtype='keep' takes them as they are") if nodata is None else (
                f', because of the no-data value {nodata:g}', "dtype='float32' reads it")
            raise DecodeError(f'pixels of {found}{why}, and dtype={self.dtype!r}; {way}')
        return np.dtype(self.dtype)


class OpenedImage:
    """An opened image, or a part of one, read where it is indexed: `img[top:bottom, left:right]` is (h, w, C)."""

    def __init__(self, stored: Stored, reading: Reading, channels: str, name: str, part: Part = WHOLE) -> None:
        self.stored, self.reading, self.channels, self.part = stored, reading, channels, part
        self.bands = choose_bands(reading.bands, stored.shape[2], stored.names)
        self.names = tuple(stored.names[band] for band in self.bands) if any(stored.names) else ()
        height, width = part.height or stored.shape[0], part.width or stored.shape[1]
        self.name = f'{name}[{part.top}:{part.top + height}, {part.left}:{part.left + width}]' if part.height else name
        self.shape = (height, width, len(self.bands))
        if part.top + height > stored.shape[0] or part.left + width > stored.shape[1]:
            raise DecodeError(f'it has {stored.shape[0]} x {stored.shape[1]} pixels now: it was changed')
        self.dtype = reading._dtype(stored.dtype, reading._nodata(stored.nodata))

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        img = self.read(*index)
        if img.dtype.kind == 'f' and not np.isfinite(img).any() and self._is_empty():
            raise DecodeError(f'cannot read {self.name}: no pixel has data')
        return img

    def _is_empty(self) -> bool:
        """Whether no pixel of the whole image has data; strips are read until one has."""
        height, width, _ = self.shape
        return not any(np.isfinite(self.read(slice(top, top + STRIP), slice(width))).any()
                       for top in range(0, height, STRIP))

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """As `img[rows, columns]`, also of an image without any data."""
        try:
            (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
            check_size(bottom - top, right - left, len(self.bands), self.stored.dtype.itemsize)
            rows = slice(self.part.top + top, self.part.top + bottom)
            columns = slice(self.part.left + left, self.part.left + right)
            img = self.stored.read(rows, columns, self.bands)
            img = self.reading.finish(img, self.stored.nodata, self.stored.window, self.stored.inverted)
            return img if self.channels == 'unchanged' else convert_array(img, self.channels, 'rgb', self.reading.dtype)
        except Exception as error:  # parsers raise whatever they raise
            raise DecodeError(f'cannot read {self.name}: {str(error) or type(error).__name__}') from error


def choose_bands(
    bands: int | Sequence[int | str] | None, count: int, names: Sequence[str | None] = (),
) -> list[int]:
    """Positions, from 0, of the bands to take among `count`; a DecodeError if they are not there."""
    if bands is None or bands == count:
        return list(range(count))
    if isinstance(bands, int):
        raise DecodeError(f'an image of {count} bands, and bands={bands}')
    names = [name or '' for name in names]
    found = [names.index(one) + 1 if one in names else one for one in bands]
    if missing := [one for one in found if isinstance(one, str) or not 1 <= one <= count]:
        known = f': {", ".join(map(repr, names))}' if any(names) else f', which have no names, only numbers 1 … {count}'
        raise DecodeError(f'no band {missing[0]!r} among {count}{known}')
    return [one - 1 for one in found]
