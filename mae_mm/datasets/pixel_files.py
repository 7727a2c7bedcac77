"""Files of 8 and 16 bits, integers and floats, with any number of bands: TIFF, NumPy, DICOM, 16-bit PNG, slides.

TIFF, slides and `.npy` are read in windows, without the rest of the file. Missing packages of the extras are named.
"""

import contextlib
import io
import math
import mmap
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from mae_mm.datasets.decode import TIFF, DecodeError, decode
from mae_mm.datasets.dicom import open_dicom
from mae_mm.datasets.find import EXTENSIONS
from mae_mm.datasets.limits import (
    PNG_HEADER,
    check_bytes,
    header_size,
    open_regular,
    read_file,
    upright_size,
)
from mae_mm.datasets.stored import Stored, check_size, package, whole

MAX_PAGES = 10_000  # of a TIFF
MAX_TAGS = 1 << 16  # of a page
HEAD = 132  # bytes that tell the format
# Whole slides, which openslide reads; of some formats, these are TIFFs that no other reader stitches together.
SLIDES = ('.svs', '.ndpi', '.scn', '.mrxs', '.vms', '.vmu', '.svslide', '.bif')
SUB_IFDS = 330  # tag of a page that has smaller copies
PNM = re.compile(rb'P([2356])' + 3 * rb'(?:\s|#[^\n]*\n)+(\d+)' + rb'\s')  # width, height, highest value
PIXEL_EXTENSIONS = ('.npy', '.dcm')  # read here, not by `decode`, in addition to `find.EXTENSIONS`
# GDAL would look for files beside the image, and keep a twentieth of the memory for blocks that are not read again.
GDAL = dict(GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_PAM_ENABLED='NO', GDAL_CACHEMAX=64)


def open_stored(source: bytes | str, level: int = 0) -> Stored:
    """Open the content or the path of an image file; raises whatever the parsers raise.

    Args:
        level: of the pyramid, 0 for the full size; `Stored.levels` tells which there are.

    Raises:
        ImportError: if the package that reads the format is not installed.
    """
    if isinstance(source, bytes):
        return _opener(source[:HEAD])(source, level)
    with open_regular(source) as file:
        head = file.read(HEAD)
        opener = _open_slide if source.lower().endswith(SLIDES) else _opener(head)
        if opener in (_open_tiff, _open_npy, _open_slide):
            return opener(source, level)
        check_bytes(file.seek(0, 2))
        file.seek(0)
        return opener(file.read(), level)


def source_size(source: dict) -> tuple[int, int]:
    """`image_size` of what `mae_mm.ImageFolder.get_data_info` returns, a file or a member of a tar."""
    return image_size(io.BytesIO(source['read']()) if 'read' in source else source['img_path'])


def image_size(path: str | Path | io.BytesIO) -> tuple[int, int]:
    """(width, height) of an image file of any format, upright, from its header where that is enough.

    Raises:
        OSError: if it is not an image that can be read.
    """
    try:
        return upright_size(path)
    except Exception as reason:  # parsers raise whatever they raise, of sizes that are fine in tiles, too
        try:
            height, width, _ = open_stored(path.getvalue() if isinstance(path, io.BytesIO) else str(path)).shape
        except Exception as error:
            raise OSError(str(reason) or type(reason).__name__) from error
        return width, height


def extensions_of(dtype: str) -> tuple[str, ...]:
    """Names of files to look for where they are read with `dtype`: `.npy` and `.dcm` are not photographs."""
    return EXTENSIONS if dtype == 'uint8' else (*EXTENSIONS, *PIXEL_EXTENSIONS)


def _opener(head: bytes) -> Callable[[bytes | str, int], Stored]:
    if head[:6] == b'\x93NUMPY':
        return _open_npy
    if head[:4] in TIFF:
        return _open_tiff
    if head[128:] == b'DICM':
        return open_dicom
    return _open_picture


def _open_picture(data: bytes, level: int = 0) -> Stored:
    """16 bits of a PNG, PGM or PPM; `decode` reads all else, in 8 bits."""
    if (pnm := PNM.match(data)) and int(pnm[4]) > 255:  # Pillow would scale it to 16 bits, or cut it to 8
        if pnm[1] in b'23':
            raise DecodeError('a PNM of 16 bits in digits; save it as PNG, or as P5 or P6')
        shape = int(pnm[3]), int(pnm[2]), 3 if pnm[1] == b'6' else 1
        check_size(*shape, 2)
        return whole(np.frombuffer(data, '>u2', math.prod(shape), pnm.end()).reshape(shape))
    if data[:16] == PNG_HEADER and data[24:25] == b'\x10':
        height, width = header_size(data)
        check_size(height, width, 4, 2)
        img = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.UNCHANGED)
    else:
        img = decode(data, 'unchanged')
    return whole(img.permute(1, 2, 0).numpy())


def _open_npy(source: bytes | str, level: int = 0) -> Stored:
    """An array (H, W) or (H, W, C), mapped, not read."""
    with BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        major, _ = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if len(shape) not in (2, 3) or not all(shape) or dtype.kind not in 'uif':
            raise DecodeError(f'array of {dtype} {shape}, must be numbers (H, W) or (H, W, C), not empty')
        if len(shape) == 3 and 4 * shape[0] < min(shape[1:]):
            raise DecodeError(f'array of {shape}, which looks like (C, H, W), must be (H, W, C): np.moveaxis(x, 0, 2)')
        buffer = source if isinstance(source, bytes) else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.ndarray(shape, dtype, buffer, file.tell(), order='F' if fortran else 'C')
    return whole(array if array.ndim == 3 else array[..., None])


def _open_tiff(source: bytes | str, level: int) -> Stored:
    """rasterio reads windows of a file of one page; tifffile finds the pages of a stack or a pyramid."""
    with BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        nested = check_pages(file)
    memory = package('rasterio').MemoryFile(source) if isinstance(source, bytes) else None
    name = memory.name if memory else source
    img = _open_page(name)
    if img.subdatasets or nested:
        img.close()
        return _open_stack(source, name, memory, level)
    if img.colorinterp[0].name == 'palette':
        return _open_picture(source if memory else read_file(source))
    known = dict(
        names=img.descriptions if any(img.descriptions) else _channel_names(
            img.tags().get('TIFFTAG_IMAGEDESCRIPTION', ''), img.count),
        nodata=img.nodata, levels=(1.0, *map(float, img.overviews(1))),
        place=dict(crs=img.crs, transform=img.transform))
    img = _open_page(name, overview_level=level - 1) if level else img
    return Stored(
        (img.height, img.width, img.count), np.dtype(img.dtypes[0]), partial(_read_window, img, memory), **known)


@cache  # each call would also forget which warnings of any kind have been shown
def _silence(category: type[Warning]) -> None:
    warnings.filterwarnings('ignore', category=category)


def _open_page(name: str, **options: int) -> object:
    """A page of a TIFF as an open rasterio data set; refuses blocks that GDAL would decode whole for one pixel."""
    rasterio = package('rasterio')
    _silence(rasterio.errors.NotGeoreferencedWarning)
    with rasterio.Env(**GDAL):
        img = rasterio.open(name, driver='GTiff', **options)
    together = img.count if img.interleaving == rasterio.enums.Interleaving.pixel else 1
    check_size(*max(img.block_shapes), together, np.dtype(img.dtypes[0]).itemsize)
    return img


def check_pages(file: BinaryIO) -> bool:
    """Refuse a TIFF whose chain of pages leaves the file or does not end: GDAL would read the first of them.

    Returns:
        Whether the first page has others below it.
    """
    order, big = ('little' if file.read(2) == b'II' else 'big'), file.read(2).strip(b'\0') == b'+'
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    place, end, nested = 8 if big else 4, file.seek(0, 2), False
    for page in range(MAX_PAGES):
        file.seek(place)
        if not (start := int.from_bytes(file.read(offset_bytes), order)):
            return nested
        file.seek(min(start, end))
        tags = int.from_bytes(file.read(count_bytes), order)
        length = entry_bytes * tags
        place = start + count_bytes + length
        if tags > MAX_TAGS:
            raise DecodeError(f'page {page + 1} of the TIFF has {tags:,} tags')
        if place + offset_bytes > end:
            raise DecodeError(f'page {page + 1} of the TIFF is beyond the end of the file: it is truncated')
        if page == 0:
            entries = file.read(length)
            nested = SUB_IFDS.to_bytes(2, order) in {entries[i:i + 2] for i in range(0, length, entry_bytes)}
    raise DecodeError(f'more than {MAX_PAGES:,} pages')


def _read_window(img: object, memory: object, rows: slice, columns: slice, bands: Sequence[int]) -> np.ndarray:
    """A window of an open rasterio data set; `memory` holds the file that it is read from."""
    window = (rows.start, rows.stop), (columns.start, columns.stop)
    some = None if list(bands) == list(range(img.count)) else [band + 1 for band in bands]
    return img.read(some, window=window).transpose(1, 2, 0)


def _open_stack(source: bytes | str, name: str, memory: object, level: int) -> Stored:
    """The first series of a TIFF, such as an OME-TIFF of a microscope: whatever is not height or width is a band.

    tifffile knows which pages belong together, and rasterio reads windows of them, from the file called `name`.
    """
    tifffile = package('tifffile')
    with contextlib.ExitStack() as stack:
        if isinstance(source, str):  # mapped, it has no name: tifffile would open other files beside it
            file = stack.enter_context(open_regular(source))
            source = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        tif = stack.enter_context(tifffile.TiffFile(
            BytesIO(source) if isinstance(source, bytes) else source, _multifile=False))
        levels = tif.series[0].levels
        series, pages = levels[level], list(levels[level].pages)
        if any(page is None or page.dataoffsets[-1] + page.databytecounts[-1] > tif.filehandle.size for page in pages):
            raise DecodeError('a page of the TIFF is missing or truncated')
        y, x = series.axes.index('Y'), series.axes.index('X')
        height, width = series.shape[y], series.shape[x]
        count = math.prod(series.shape) // max(height * width, 1)
        heights = [one.shape[one.axes.index('Y')] for one in levels]
        factors = tuple(heights[0] / max(one, 1) for one in heights)
        samples, offsets = pages[0].samplesperpixel, [page.offset for page in pages]
        if not all(offsets) or len(pages) * samples != count:
            raise DecodeError('pages of the TIFF hold several images each; write one image to a page')
        names = _channel_names(tif.ome_metadata or '', count) if series.kind == 'ome' else ()
    read = partial(_read_pages, name, memory, offsets, samples)
    return Stored((height, width, count), series.dtype, read, levels=factors, names=names)


def _channel_names(xml: str, count: int) -> tuple[str | None, ...]:
    """What an OME-TIFF calls the channels of its first image, if each of its `count` bands is one."""
    try:
        channels = ElementTree.fromstring(xml).findall('{*}Image[1]//{*}Channel')
    except ElementTree.ParseError:
        return ()
    return tuple(channel.get('Name') for channel in channels) if len(channels) == count else ()


def _read_pages(
        name: str, memory: object, offsets: Sequence[int], samples: int, rows: slice, columns: slice,
        bands: Sequence[int]) -> np.ndarray:
    """A window of a stack, `samples` bands from the page at each offset, each page opened once."""
    out = {}
    for page in dict.fromkeys(band // samples for band in bands):
        with _open_page(f'GTIFF_DIR:off:{offsets[page]}:{name}') as img:
            inside = [band for band in bands if band // samples == page]
            window = _read_window(img, memory, rows, columns, [band % samples for band in inside])
        out |= {band: window[..., i] for i, band in enumerate(inside)}
    return np.stack([out[band] for band in bands], axis=-1)


def _open_slide(path: str, level: int) -> Stored:
    """A whole slide, RGB; what was not scanned has the slide's background colour, white if it names none."""
    openslide = package('openslide', 'slides', 'openslide-python openslide-bin')
    slide = openslide.OpenSlide(path)
    factor, (width, height) = slide.level_downsamples[level], slide.level_dimensions[level]
    blank = '#' + slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, 'ffffff')

    def read(rows: slice, columns: slice, bands: Sequence[int]) -> np.ndarray:
        place, size = (columns.start, rows.start), (columns.stop - columns.start, rows.stop - rows.start)
        region = slide.read_region(tuple(round(one * factor) for one in place), level, size)
        return np.array(Image.alpha_composite(Image.new('RGBA', size, blank), region))[..., bands]

    return Stored((height, width, 3), np.dtype(np.uint8), read, levels=tuple(slide.level_downsamples))
