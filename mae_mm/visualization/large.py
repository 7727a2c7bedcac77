"""Segmentation of images of any size: windows that overlap, from the file to a GeoTIFF of classes."""

import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.pixel_files import GDAL
from mae_mm.datasets.pixels import OpenedImage
from mae_mm.datasets.stored import package
from mae_mm.datasets.tiled_images import window_starts

NODATA = 255  # in the map of classes
BLOCK = 256  # pixels of a side of its tiles
STRIP = 2**29  # bytes of logits and pixels at a time; wider images are done in several columns


class Windows(NamedTuple):
    """How an image is cut."""

    size: int  # pixels of a side; smaller images are one window
    overlap: float  # share of a window's side that the next one covers, too
    batch_size: int  # windows at a time


class Classes(NamedTuple):
    """What a map shows."""

    names: Sequence[str]
    palette: np.ndarray  # (classes, 3) uint8 RGB


def segment(
        model: nn.Module, img: OpenedImage, swap: bool, windows: Windows, classes: Classes, out: Path, side: int,
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write the class of each pixel as a GeoTIFF with the image's georeference, complete or not at all.

    Logits of windows that overlap are averaged, with weights that fall to the edges of the windows in straight lines.
    Memory: a strip of logits and pixels, as high as a window.

    Args:
        model: an mmseg segmentor, in evaluation mode.
        swap: whether it takes BGR.
        out: uint8, tiled, deflated, with smaller copies, colours and names; 255 where no band has data.
        side: pixels of the longer side of the preview, at most.

    Returns:
        The preview's pixels (h, w, C) of the image's type, its classes (h, w) uint8, and the pixels of each class.
    """
    rasterio = package('rasterio')
    step = -(-max(img.shape[:2]) // side)
    small = [np.zeros((*(-(-length // step) for length in img.shape[:2]), *more), dtype)
             for more, dtype in ((img.shape[2:], img.dtype), ((), np.uint8))]
    counts = np.zeros(NODATA + 1, np.int64)

    def write(partial: Path) -> None:
        with rasterio.open(
                partial, 'w', driver='GTiff', height=img.shape[0], width=img.shape[1], count=1, dtype='uint8',
                nodata=NODATA, tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress='deflate',
                bigtiff='if_safer', **(img.stored.place or {})) as file:
            file.write_colormap(1, {i: tuple(colour) for i, colour in enumerate(classes.palette.tolist())})
            file.update_tags(classes=json.dumps(list(classes.names), ensure_ascii=False))
            for top, left, pixels, labels in _strips(model, img, swap, windows, len(classes.names)):
                file.write(labels, 1, window=((top, top + len(labels)), (left, left + labels.shape[1])))
                counts[:] += np.bincount(labels.ravel(), minlength=len(counts))
                rows, columns = (slice(-start % step, None, step) for start in (top, left))
                for target, source in zip(small, (pixels, labels), strict=True):
                    found = source[rows, columns]
                    y, x = -(-top // step), -(-left // step)
                    target[y:y + found.shape[0], x:x + found.shape[1]] = found
        with rasterio.open(partial, 'r+') as file:
            factors = [2**i for i in range(1, 16) if max(img.shape[:2]) > BLOCK * 2**(i - 1)]
            file.build_overviews(factors, rasterio.enums.Resampling.nearest)

    with rasterio.Env(**GDAL), warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        write_beside(out, write)
    return *small, counts[:len(classes.names)]


def _strips(
        model: nn.Module, img: OpenedImage, swap: bool, windows: Windows, classes: int,
        ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Finished parts of the image: top, left, pixels (h, w, C), classes (h, w) uint8."""
    height, width, bands = img.shape
    size = min(windows.size, height), min(windows.size, width)
    stride = max(1, round(windows.size * (1 - windows.overlap)))
    tops, lefts = (window_starts(*sides, stride) for sides in zip(img.shape, size, strict=False))
    weight = torch.outer(*(torch.minimum(torch.arange(1, side + 1), torch.arange(side, 0, -1)) / side for side in size))
    channels = getattr(model, 'out_channels', classes)
    panel = max(1, STRIP // (4 * (channels + bands) * size[0] * BLOCK)) * BLOCK
    panels = [(left, min(left + panel, width)) for left in range(0, width, panel)]
    seen = [[x for x in lefts if x < right and x + size[1] > left] for left, right in panels]
    with tqdm(total=len(tops) * sum(map(len, seen)), desc='windows', unit='window', delay=2) as bar:
        for (left, right), inside in zip(panels, seen, strict=True):
            total = torch.zeros(channels + 1, size[0], right - left)  # the last one of the weights
            for top, bottom in pairwise([*tops, height]):
                pixels = img.read(slice(top, top + size[0]), slice(inside[0], inside[-1] + size[1]))
                known = ~np.isnan(pixels).all(-1) if pixels.dtype.kind == 'f' else np.ones(pixels.shape[:2], bool)
                places = [x for x in inside if known[:, x - inside[0]:x - inside[0] + size[1]].any()]
                bar.update(len(inside) - len(places))
                for batch in (places[i:i + windows.batch_size] for i in range(0, len(places), windows.batch_size)):
                    views = np.stack([pixels[:, x - inside[0]:x - inside[0] + size[1]] for x in batch])
                    for x, logits in zip(batch, _logits(model, views, swap), strict=True):
                        here, there = max(x, left), min(x + size[1], right)
                        part = slice(here - x, there - x)
                        target = total[:, :, here - left:there - left]
                        target[:-1] += weight[:, part] * logits[:, :, part]
                        target[-1] += weight[:, part]
                    bar.update(len(batch))
                done = bottom - top
                labels = _labels(total[:, :done], model)
                mine = slice(left - inside[0], right - inside[0])
                yield top, left, pixels[:done, mine], np.where(known[:done, mine], labels, np.uint8(NODATA))
                for plane in total:
                    plane[:-done] = plane[done:].clone()
                    plane[size[0] - done:] = 0


@torch.no_grad()
def _logits(model: nn.Module, views: np.ndarray, swap: bool) -> Tensor:
    """(N, h, w, C) of any type -> (N, classes, h, w) float32."""
    from mmseg.structures import SegDataSample

    imgs = torch.from_numpy(np.ascontiguousarray((views[..., ::-1] if swap else views).transpose(0, 3, 1, 2)))
    height, width = imgs.shape[2:]
    samples = [SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width))) for _ in imgs]
    data = model.data_preprocessor(dict(inputs=list(imgs), data_samples=samples))
    inputs = data['inputs'].nan_to_num(0)  # of pixels without data: the mean
    logits = model.encode_decode(inputs, [sample.metainfo for sample in data['data_samples']])
    return logits[:, :, :height, :width].float().cpu()  # without padding


def _labels(total: Tensor, model: nn.Module) -> np.ndarray:
    """Sums of weighted logits, and of the weights last, (classes + 1, h, w) -> (h, w) uint8."""
    if len(total) > 2:
        return total[:-1].argmax(0).numpy().astype(np.uint8)
    return ((total[0] / total[1]).sigmoid() > model.decode_head.threshold).numpy().astype(np.uint8)
