"""Tiles of images that are too large to be read at once."""

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from mae_mm.datasets.decode import DecodeError
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.limits import printable
from mae_mm.datasets.parts import map_in_parts
from mae_mm.datasets.pixel_files import SLIDES
from mae_mm.datasets.pixels import OpenedImage, Part, Reading
from mae_mm.registry import DATASETS

TILED = ('.tif', '.tiff', '.npy', *SLIDES)
PROBE = 8  # pixels of each side of a tile, at least, that tell whether it is background
LEVEL = 1.1  # how much the factor of a level may differ from `downsample`


def window_starts(side: int, size: int, stride: int) -> list[int]:
    """Where windows of `size` pixels begin on a side of an image; the last one ends with the side."""
    return [*range(0, max(side - size, 0), stride), max(side - size, 0)]


class FileTiles(NamedTuple):
    """The tiles of one file."""

    level: int
    shape: tuple[int, int]  # of that level
    size: tuple[int, int]  # of a tile; of the level if that is smaller
    places: np.ndarray  # (tiles, 2) int32: top and left of those that are kept
    background: int = 0  # tiles that are left out
    fault: str = ''  # why the file cannot be read


@dataclass(frozen=True)
class Grid:
    """Which tiles of a file are taken; `TiledImages` describes the arguments."""

    size: tuple[int, int]
    stride: tuple[int, int]
    downsample: float
    background: tuple[float, float] | None
    max_background: float

    def tiles_of(self, reading: Reading, channels: str, path: str) -> FileTiles:
        """Those of a file; of one that cannot be read one tile stands, so that the loops report it."""
        try:
            opened = reading.open(path, channels, path)
            level = self._level(opened.stored.levels)
            height, width = shape = reading.open(path, channels, path, Part(level)).shape[:2]
            size = min(self.size[0], height), min(self.size[1], width)
            tops, lefts = map(window_starts, shape, size, self.stride)
            places = np.array([(top, left) for top in tops for left in lefts], np.int32)
            open_at = partial(replace(reading, dtype='keep').open, path, channels, path)
            kept = self._shares(open_at, opened.stored.levels, level, tops, lefts, size) <= self.max_background
            return FileTiles(level, shape, size, places[kept.ravel()], int((~kept).sum()))
        except DecodeError as error:
            fault = str(error) if path in str(error) else f'cannot read {path}: {error}'
            return FileTiles(0, self.size, self.size, np.zeros((1, 2), np.int32), fault=fault)

    def _level(self, levels: Sequence[float]) -> int:
        """The level with the factor of `downsample`."""
        level = min(range(len(levels)), key=lambda i: abs(math.log(levels[i] / self.downsample)))
        if not 1 / LEVEL <= levels[level] / self.downsample <= LEVEL:
            found = ', '.join(f'{one:g}' for one in levels)
            raise DecodeError(f'no level of its pyramid is {self.downsample:g} times smaller (downsample): {found}')
        return level

    def _shares(
            self, open_at: partial, levels: Sequence[float], level: int, tops: list[int], lefts: list[int],
            size: tuple[int, int]) -> np.ndarray:
        """The share of background in each tile, (tops, lefts), in the smallest level that shows it."""
        shares = np.zeros((len(tops), len(lefts)))
        factors = [one / levels[level] for one in levels]
        coarse = max((i for i in range(level, len(levels)) if min(size) / factors[i] >= PROBE), default=level)
        opened, factor = open_at(Part(coarse)), factors[coarse]
        if self.background is None and opened.dtype.kind != 'f':
            return shares  # nothing can be background
        middle = min(size) / factor > PROBE**2  # there is no small copy
        columns = [_scaled(left, size[1], factor, middle) for left in lefts]
        for i, top in enumerate(tops):
            rows = _scaled(top, size[0], factor, middle)
            strip = None if middle else self._is_background(opened, rows, slice(None))
            for j, column in enumerate(columns):
                shares[i, j] = (self._is_background(opened, rows, column) if middle else strip[:, column]).mean()
        return shares

    def _is_background(self, opened: OpenedImage, rows: slice, columns: slice) -> np.ndarray:
        """(h, w) bool: pixels without data, or with all bands in the range of the background."""
        img = opened.read(rows, columns)
        out = np.isnan(img) if img.dtype.kind == 'f' else np.zeros(img.shape, bool)
        if self.background is not None:
            out |= (img >= self.background[0]) & (img <= self.background[1])
        return out.all(-1)


def _scaled(start: int, size: int, factor: float, middle: bool) -> slice:
    """The pixels of a tile in a smaller copy, or an eighth of them."""
    first, last = int(start / factor), int((start + size) / factor)
    if middle:  # from the middle on: often the beginning of a block of the file
        first, side = (first + last) // 2, (last - first) // PROBE
        last = first + side
    return slice(first, max(last, first + 1))


@DATASETS.register_module()
class TiledImages(ImageFolder):
    """Tiles of large images: GeoTIFF, OME-TIFF and other pyramids, whole slides (extra `slides`), `.npy`.

    A sample is that of `ImageFolder`, of a tile; the transform that loads reads no more of the file than its crop.
    Which tiles there are is found at the start, from headers and the smallest copy in each file, and kept in memory.

    A pixel is background if it has no data, or if all its bands are in the range `background`. A tile with more
    background than `max_background` is left out. That is measured in the smallest level of the file's pyramid in which
    a tile still has 8 pixels; if it has more than 64 there (a file without a pyramid), in the middle, an eighth of its
    sides.

    A file that cannot be read counts as one tile, and is replaced and reported like any other bad image.

    Args:
        data_root: a folder, searched as by `ImageFolder`.
        size: pixels of a tile, one number or (height, width); smaller images are one tile.
        stride: pixels from a tile to the next, one number or (down, right); `size` by default. The last tiles of rows
            and columns are moved so that they end with the image.
        downsample: how many times smaller than in full size files are read; their pyramids need a level of that
            factor, within a tenth.
        background: the lowest and highest value of the background, such as (220, 255) for bright-field slides.
        max_background: share of background, above which a tile is left out.
        per_file: None for the grid, each tile once in an epoch. A number: so many windows of each file, at random
            places that are others in each epoch: a tile of the grid that is moved by up to half a stride. For
            training; validation takes the grid.
        extensions, folder: as of `ImageFolder`.
    """

    def __init__(
            self, data_root: str, size: int | Sequence[int] = 512, stride: int | Sequence[int] | None = None,
            downsample: float = 1, background: tuple[float, float] | None = None, max_background: float = 0.5,
            per_file: int | None = None, extensions: Sequence[str] = TILED, **folder: object) -> None:
        size, stride = _pair('size', size), _pair('stride', size if stride is None else stride)
        if not (downsample >= 1 and 0 <= max_background < 1 and (per_file is None or per_file >= 1)):
            raise ValueError(f'downsample={downsample} must be at least 1, max_background={max_background} in [0, 1), '
                             f'per_file={per_file} None or at least 1')
        if background is not None and not (len(background) == 2 and background[0] <= background[1]):
            raise ValueError(f'background={background} must be the lowest and the highest value of the background')
        if per_file and folder.get('cache', 'none') != 'none':
            raise ValueError("cache='memory' would repeat the windows of the first epoch: leave out per_file")
        if folder.get('crop_sizes'):
            raise ValueError(f'crop_sizes={folder["crop_sizes"]}: tiles have one shape; leave it out')
        self.grid = Grid(size, stride, downsample, background and tuple(background), max_background)
        self.per_file = per_file
        super().__init__(data_root, extensions=extensions, **folder)

    def _find(self, first_n: int | None) -> tuple[np.ndarray, np.ndarray]:
        return super()._find(None)  # the first tiles may be in any file

    def _choose(self) -> Sequence[int]:
        """Find the tiles of all files; each process of a training does a part of that."""
        start, files = time.perf_counter(), len(self.data_address)
        load = self.pipeline.transforms[0] if self.pipeline.transforms else None
        reading, channels = getattr(load, 'reading', Reading('keep')), getattr(load, 'channels', 'unchanged')
        paths = [os.path.join(self.data_root, self._name(i)) for i in range(files)]
        self.files = map_in_parts(partial(self.grid.tiles_of, reading, channels), paths, 'finding tiles', 'file')
        self.tile_ends = np.cumsum([len(file.places) for file in self.files])  # (files,)
        faults, skipped = [file.fault for file in self.files if file.fault], sum(file.background for file in self.files)
        counts = f'{self.tile_ends[-1] - len(faults):,} tiles of {self.grid.size[0]} x {self.grid.size[1]} px'
        if self.tile_ends[-1] == len(faults):
            raise FileNotFoundError(printable(
                f'{self.data_root}: no tile in {files:,} files; {skipped:,} are background (background='
                f'{self.grid.background}, max_background={self.grid.max_background:g})'
                + f'; {len(faults):,} files cannot be read: {faults[:1]}' * bool(faults)))
        print_log(
            f'{self.data_root}: {counts} in {files:,} files, {skipped:,} more are background, {len(faults):,} files '
            f'cannot be read; {time.perf_counter() - start:.1f} s', 'current',
            logging.WARNING if faults else logging.INFO)
        if self.per_file is None:
            return range(self.tile_ends[-1])
        with_tiles = [i for i, file in enumerate(self.files) if len(file.places)]
        return np.concatenate([np.arange(self.per_file) + i * self.per_file for i in with_tiles])

    def relative_names(self) -> Iterator[str]:
        """The files, which `names` lists."""
        return map(self._name, range(len(self.files)))

    def _source(self, i: int) -> dict:
        """Where the transforms find a tile: `img_path`, and the `part` of it or, of a bad file, `read`, which fails."""
        number = i // self.per_file if self.per_file else int(np.searchsorted(self.tile_ends, i, 'right'))
        file, path = self.files[number], os.path.join(self.data_root, self._name(number))
        if file.fault:
            return dict(img_path=path, read=partial(_fail, file.fault))
        if self.per_file:
            noise = np.random.random_sample(3)  # the loops of mae_mm seed each sample
            place = file.places[int(noise[0] * len(file.places))] + (noise[1:] - 0.5) * self.grid.stride
            place = np.clip(place.astype(int), 0, np.subtract(file.shape, file.size))
        else:
            place = file.places[i - self.tile_ends[number]]  # counted from the end
        return dict(img_path=path, part=Part(file.level, *map(int, place), *file.size))


def _fail(fault: str) -> None:
    raise DecodeError(fault)


def _pair(key: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f'{key}={value} must be pixels, one number or (height, width)')
    return pair
