"""From files of many bands and 16 bits to crops: this project's loading against rasterio's and torchgeo's."""

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mae_mm.benchmark.timing import Rounds, Timing, interleave
from mae_mm.datasets import ImageFolder
from mae_mm.datasets.jpeg import Box
from mae_mm.datasets.stored import package
from mae_mm.datasets.transforms import NOISE, crop_box

LAYOUTS = {  # of GeoTIFFs
    'strips': {}, 'tiles': dict(tiled=True, blockxsize=256, blockysize=256),
    'strips, deflate': dict(compress='deflate', predictor=2),
    'tiles, deflate': dict(tiled=True, blockxsize=256, blockysize=256, compress='deflate', predictor=2)}
Read = Callable[[int, Box], Tensor]  # the number of a file and a box in it
RANGES = (0.2, 1.0), (3 / 4, 4 / 3)  # area and ratio of a crop


def write_files(folder: Path, number: int, bands: int, side: int, **layout: object) -> Path:
    """GeoTIFFs of 16 bits, side by side on the map, whose power falls with frequency as that of landscapes does."""
    rasterio = package('rasterio')
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1.0
    for i in range(number):
        img = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((bands, side, side))) / frequency, s=(side, side))
        img = 2000 + 500 * img / img.std((1, 2), keepdims=True)  # reflectance, times 10,000
        with rasterio.open(
                folder / f'{i:05}.tif', 'w', driver='GTiff', height=side, width=side, count=bands, dtype='uint16',
                crs='EPSG:32633', transform=rasterio.transform.from_origin(10 * side * i, 0, 10, 10), **layout) as file:
            file.write(img.clip(0, 10000).astype(np.uint16))
    return folder


def with_ours(folder: Path, size: int, bands: int) -> Callable[[], Tensor]:
    """A call that makes a batch, uint16, of one view of every file through `mae_mm.ImageFolder`."""
    dataset = ImageFolder(folder, [dict(
        type='mae_mm.LoadRandomResizedCrop', size=size, scale=RANGES[0], dtype='uint16', bands=bands)])

    def run() -> Tensor:
        np.random.seed(0)  # the same crops in every call, of all contestants
        return torch.stack([dataset[i]['inputs'] for i in range(len(dataset))])

    return run


def with_peer(read: Read, number: int, side: int, size: int) -> Callable[[], Tensor]:
    """A batch of the same crops, float32, of what `read` returns, (C, h, w) float32, resized and flipped by torch."""
    def view(i: int) -> Tensor:
        noise, = np.random.random_sample((1, NOISE)).tolist()
        img = read(i, crop_box(side, side, noise, *RANGES))
        img = F.interpolate(img[None], (size, size), mode='bicubic', antialias=True)[0]
        return img.flip(-1) if noise[-1] < 0.5 else img

    def run() -> Tensor:
        np.random.seed(0)
        return torch.stack([view(i) for i in range(number)])

    return run


def rasterio_reader(paths: Sequence[Path]) -> Read:
    """A file is opened and the window read."""
    rasterio = package('rasterio')

    def read(i: int, box: Box) -> Tensor:
        top, left, height, width = box
        with rasterio.open(paths[i]) as file:
            img = file.read(window=((top, top + height), (left, left + width)))
        return torch.from_numpy(img.astype(np.float32))

    return read


def torchgeo_reader(folder: Path, side: int) -> Read:
    """Its `RasterDataset`, asked for the place of the window. Files are not kept open: a data set has more of them."""
    from torchgeo.datasets import RasterDataset

    dataset = RasterDataset(folder, cache=False)

    def read(i: int, box: Box) -> Tensor:
        top, left, height, width = box
        x, y = 10 * (side * i + left), -10 * top
        return dataset[x:x + 10 * width, y - 10 * height:y]['image'].float()

    return read


def compare_bands(
    size: int = 224, bands: int = 13, images: int = 60, rounds: int | Rounds = 7, side: int = 512,
) -> list[dict]:
    """Time all ways of loading in this process's CPU time, one thread, interleaved.

    Args:
        size: side of a crop in pixels.
        bands: of each file, 16 bits.
        images: a fifth as many files of each layout are drawn.
        rounds: timed passes over them.
        side: of a file in pixels.

    Returns:
        Rows as of `compare_loading`; the peer is rasterio, on the same files.
    """
    torch.set_num_threads(1)
    calls, images = {}, max(images // 5, 2)
    with tempfile.TemporaryDirectory() as temporary:
        for name, layout in tqdm(LAYOUTS.items(), 'files', disable=None, leave=False):
            folder = write_files(Path(temporary, name.replace(', ', '_')), images, bands, side, **layout)
            paths = sorted(folder.iterdir())
            calls[f'rasterio: {name}'] = with_peer(rasterio_reader(paths), images, side, size)
            if find_spec('torchgeo'):
                calls[f'torchgeo: {name}'] = with_peer(torchgeo_reader(folder, side), images, side, size)
            calls[f'mae_mm: {name}'] = with_ours(folder, size, bands)
        seconds = interleave(calls, rounds, clock=time.process_time)
    times = {name: Timing(*(1e3 * t / images for t in found)) for name, found in seconds.items()}
    rows = []
    for name, timing in times.items():
        peer = f'rasterio: {name.partition(": ")[2]}'
        rows.append(dict(name=name, peer=peer, ms=timing, ratio=times[peer].median / timing.median))
    return rows
