"""Transforms that turn an image into one view, of 8-bit RGB without a float or a full-size resize on the way.

They add `inputs`, in RGB whatever the source, uint8 or of the type that `Reading` chooses:
- a file, named by `img_path` or read by a call `read()`, or a `part` of one (`mae_mm.TiledImages`);
- `img`, an array of another data set, transform or inferencer: BGR, as everywhere in OpenMMLab (`array_order`);
- `decoded`, an image that `load` of the same transform decoded before (`mae_mm.ImageFolder`'s cache).
"""

import math
import os
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_mm.datasets.decode import CHANNELS, DecodeError, convert_array, decode
from mae_mm.datasets.jpeg import Box, croppable_size, decode_crop, decode_reduced, reduce_box, reducible_size, reduction
from mae_mm.datasets.limits import read_file
from mae_mm.datasets.pixels import WHOLE, OpenedImage, Reading, choose_bands
from mae_mm.registry import TRANSFORMS

TRIES = 10  # as in torchvision
NOISE = 4 * TRIES + 1  # uniform numbers that one random view takes
COVERED = 0.999  # share of pixels with data, under a resized pixel, above which it has data


def crop_box(
        height: int, width: int, noise: list[float], scale: tuple[float, float], ratio: tuple[float, float],
        retries: int = TRIES) -> Box:
    """Choose the box of a random resized crop, in pixels, by the rule of torchvision's RandomResizedCrop.

    An area and an aspect ratio are drawn up to `retries` times until the box fits; then the largest centred box whose
    ratio is in range is taken. With a single draw, a box that does not fit is cut to the image instead.

    Args:
        noise: 40 uniform numbers in [0, 1): area, log ratio, top and left of each try.
        scale: range of the area, as a fraction of the image's.
        ratio: range of width / height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(0, 4 * retries, 4):
        area = height * width * (scale[0] + noise[i] * (scale[1] - scale[0]))
        aspect = math.exp(low + noise[i + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if retries == 1:
            w, h = max(1, min(w, width)), max(1, min(h, height))
        if 0 < w <= width and 0 < h <= height:
            return int(noise[i + 2] * (height - h + 1)), int(noise[i + 3] * (width - w + 1)), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(img: np.ndarray, size: tuple[int, int], interpolation: str = 'bicubic') -> Tensor:
    """Resize with antialiasing; in uint8 it differs from Pillow by 0.01 grey levels in the mean, 2 at most.

    Other types are resized in float32, integers rounded. A pixel of the result is NaN where NaN had a part in it.

    Args:
        img: (H, W, C), no negative strides; other types than uint8 fastest where each channel is contiguous.
        size: (height, width) of the result, (C, height, width) of the same type and contiguous.
        interpolation: 'bicubic' or 'bilinear'.
    """
    imgs = torch.from_numpy(img[None].transpose(0, 3, 1, 2))  # five times as fast as permuting in torch
    scaled = partial(F.interpolate, size=size, mode=interpolation, antialias=True)
    if imgs.dtype == torch.uint8:
        return scaled(imgs)[0].contiguous()
    floats = imgs.to(torch.float32, memory_format=torch.contiguous_format)
    if not imgs.is_floating_point():
        limits = torch.iinfo(imgs.dtype)
        return scaled(floats)[0].round_().clamp_(limits.min, limits.max).to(imgs.dtype)
    imgs, valid = floats, ~floats.isnan()
    if valid.all():
        return scaled(imgs)[0]
    mean = imgs.nanmean((2, 3), keepdim=True).nan_to_num()  # near the borders of what is missing
    share = F.interpolate(valid.float(), size, mode='bilinear', antialias=True)
    return scaled(imgs.where(valid, mean)).where(share > COVERED, torch.nan)[0]


def flip(view: Tensor) -> Tensor:
    """Mirror (C, H, W) horizontally; torch does not flip uint16."""
    return view.view(torch.int16).flip(-1).view(torch.uint16) if view.dtype == torch.uint16 else view.flip(-1)


class ReadImage:
    """What all transforms here share: reading an image, or taking the one that is there.

    Args:
        channels: 'rgb', 'gray' or 'unchanged', see `decode`; always 'unchanged' if `bands` are given.
        array_order: 'bgr', or 'rgb' for a data set whose samples hold RGB arrays in `img` (mmpretrain's CIFAR).
        reading: `dtype`, `bands`, `nodata`, `window`, see `Reading`.
    """

    def __init__(self, channels: str, array_order: str, **reading: object) -> None:
        self.reading = Reading(**reading)
        self.channels = channels if self.reading.bands is None else 'unchanged'
        self.array_order = array_order
        self.check(channels=CHANNELS, array_order=('bgr', 'rgb'))

    def check(self, **choices: tuple[str, ...]) -> None:
        """Refuse options that are not among the choices."""
        for key, values in choices.items():
            if getattr(self, key) not in values:
                raise ValueError(f'{key} is {getattr(self, key)!r}; choose from {values}')

    def load(self, results: dict) -> np.ndarray:
        """Take the image out of the results, decoded: (H, W, C). Errors as of `read`."""
        return self.pixels(self.read(results), results)

    def pixels(self, source: bytes | np.ndarray | OpenedImage, results: dict) -> np.ndarray:
        """All of what `read` took, (H, W, C)."""
        return self.decode(source, results) if isinstance(source, bytes) else source[:, :]

    def read(self, results: dict) -> bytes | np.ndarray | OpenedImage:
        """Take the content of the file, or `decoded` or `img` as (H, W, C) in the order of `channels`.

        With another `dtype` than uint8, or a `part`, a file is opened, and read where it is indexed.
        """
        decoded, img, read = (results.pop(key, None) for key in ('decoded', 'img', 'read'))
        if decoded is not None:
            return decoded
        if img is not None:
            # Arrays of inferencers are BGR whatever the data set holds; samples of a data set have an index.
            order = self.array_order if 'sample_idx' in results else 'bgr'
            if self.reading.dtype == 'uint8':
                return convert_array(img, self.channels, order)
            img = convert_array(img, 'unchanged', order, self.reading.dtype)
            img = self.reading.finish(img[..., choose_bands(self.reading.bands, img.shape[2])])
            return convert_array(img, self.channels, 'rgb', self.reading.dtype)
        part = results.pop('part', WHOLE)
        try:
            if self.reading.dtype != 'uint8' or part != WHOLE:
                source = os.path.abspath(results['img_path']) if read is None else read()
                return self.reading.open(source, self.channels, results['img_path'], part)
            return read_file(results['img_path']) if read is None else read()
        except OSError as error:
            raise DecodeError(f'cannot read {results["img_path"]}: {error}') from error

    def decode(self, data: bytes, results: dict, factor: int = 1) -> np.ndarray:
        """Decode to (H, W, C) uint8, at 1 / factor of the size; raises a DecodeError that names the file."""
        try:
            if factor > 1:
                return decode_reduced(data, factor, self.channels)
            return decode(data, self.channels).permute(1, 2, 0).numpy()
        except (DecodeError, OSError) as error:
            raise DecodeError(f'cannot read {results["img_path"]}: {error}') from error

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{key}={value!r}" for key, value in vars(self).items())})'


@TRANSFORMS.register_module()
class LoadImage(ReadImage):
    """Read an image for the pipeline of a host (mmpretrain, mmdet, mmseg), in place of its `LoadImageFromFile`.

    Adds `img`, (H, W, C) of the file's type, `img_shape` and `ori_shape`, (H, W), and `band_names`, if the file has
    any. Colours are RGB: leave out the preprocessor's `to_rgb` and `bgr_to_rgb`.

    Args:
        channels, array_order, reading: see `ReadImage`.
    """

    def __init__(
            self, channels: str = 'unchanged', array_order: str = 'bgr', dtype: str = 'keep', **reading: object,
            ) -> None:
        super().__init__(channels, array_order, dtype=dtype, **reading)

    def __call__(self, results: dict) -> dict:
        source = self.read(results)
        img = np.ascontiguousarray(self.pixels(source, results))
        results.update(img=img, img_shape=img.shape[:2], ori_shape=img.shape[:2],
                       band_names=getattr(source, 'names', ()))
        return results


class LoadView(ReadImage):
    """What the views share.

    Args:
        size: pixels of the result, one number or (height, width); of a data set with `crop_sizes` that of the image.
        interpolation: 'bicubic' or 'bilinear'.
        channels, array_order, reading: see `ReadImage`.
        resize: pixels of the image's short side before a crop of fixed size, if there is one.
    """

    def __init__(
            self, size: int | tuple[int, int], interpolation: str, channels: str, array_order: str,
            resize: int | None = None, **reading: object) -> None:
        super().__init__(channels, array_order, **reading)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f'size is {size}; give pixels as an int or as (height, width)')
        if resize is not None and resize < max(self.size):
            raise ValueError(f'resize is {resize}, too small for size {self.size}; give {max(self.size)} or more')
        self.interpolation, self.resize = interpolation, resize
        self.check(interpolation=('bicubic', 'bilinear'))


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(LoadView):
    """Decode, crop at random, resize and flip: the only augmentation of MAE (arXiv:2111.06377, appendix A.1).

    Adds `inputs` ((C, height, width), contiguous), `crop` ((top, left, height, width) in the upright image, pixels)
    and `flip` (bool). Each view takes the same number of draws from NumPy's global generator, which mmengine seeds in
    every worker when it starts: with `persistent_workers=False` each epoch repeats the same draws.

    If the crop of a JPEG has at least three times the pixels needed, in height and width, the file is decoded at a
    half, a quarter or an eighth of its size so that 1.5 times remain, and the crop lies on pixels of the reduced image.
    Of other JPEGs only the crop is decoded, to the same pixels, if the extension for that is built (docs/install.md).

    Args:
        size, interpolation, channels, array_order, reading: see `LoadView`.
        scale: range of the crop's area, as a fraction of the image's.
        ratio: range of the crop's width / height before it is resized; times that of the size from `crop_sizes`.
        flip_prob: probability of a horizontal flip, in [0, 1].
        repeats: k views of each decoded image. Above 1, `inputs` is (k, C, height, width), `crop` and `flip` are
            lists, and a loader's batch of N images is k N views, each with a mask of its own.
        crop_decoder: whether to use that extension.
        retries: draws of a box until it fits the image, 1 to 10; 10 is torchvision's rule. With 1 a box that does not
            fit is cut to the image, as in the release's linear probing: crops are larger.
    """

    def __init__(
            self, size: int | tuple[int, int], scale: tuple[float, float] = (0.2, 1.0),
            ratio: tuple[float, float] = (3 / 4, 4 / 3), flip_prob: float = 0.5, interpolation: str = 'bicubic',
            channels: str = 'rgb', repeats: int = 1, crop_decoder: bool = True, retries: int = TRIES,
            array_order: str = 'bgr', **reading: object) -> None:
        super().__init__(size, interpolation, channels, array_order, **reading)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'scale is {scale}; give two increasing fractions of the image in (0, 1]')
        self.scale, self.ratio, self.flip_prob = tuple(scale), tuple(ratio), flip_prob
        self.repeats, self.crop_decoder, self.retries = repeats, crop_decoder, retries

    def __call__(self, results: dict) -> dict:
        noise = np.random.random_sample((self.repeats, NOISE)).tolist()
        stretch = results['size'][1] / results['size'][0] if 'size' in results else 1
        view_size, ratio = results.pop('size', self.size), tuple(stretch * value for value in self.ratio)
        source = self.read(results)
        reducible = croppable = img = None  # (height, width) of the image where it need not be decoded in full
        if isinstance(source, bytes) and self.channels != 'unchanged':
            reducible = reducible_size(source, view_size)
            croppable = croppable_size(source) if self.crop_decoder and self.repeats == 1 else None
        size = reducible or croppable
        if size is None:
            img = self.decode(source, results) if isinstance(source, bytes) else source
            size = img.shape[:2]
        boxes = crops = [crop_box(*size, row, self.scale, ratio, self.retries) for row in noise]
        if img is None:
            factor = reduction(boxes, view_size) if reducible else 1
            if factor > 1:
                boxes = [reduce_box(box, factor, size) for box in boxes]
                crops = [tuple(factor * side for side in box) for box in boxes]
            elif croppable:
                img = decode_crop(source, boxes[0], self.channels)
            if img is None:
                img = self.decode(source, results, factor)
            else:
                boxes = [(0, 0, *boxes[0][2:])]
        flips = [row[-1] < self.flip_prob for row in noise]
        crop_views = (resize(img[top:top + height, left:left + width], view_size, self.interpolation)
                      for top, left, height, width in boxes)
        views = [flip(view) if mirrored else view for view, mirrored in zip(crop_views, flips, strict=True)]
        one = self.repeats == 1
        results.update(inputs=views[0] if one else torch.stack(views), crop=crops[0] if one else crops,
                       flip=flips[0] if one else flips)
        return results


@TRANSFORMS.register_module()
class LoadResizeCenterCrop(LoadView):
    """Decode, resize and crop the centre: the fixed view of a held-out image, as `inputs`, (C, height, width).

    Args:
        size, interpolation, channels, array_order, reading: see `LoadView`.
        resize: pixels of the image's short side before the crop; by default the smallest that covers `size`.
    """

    def __init__(
            self, size: int | tuple[int, int], resize: int | None = None, interpolation: str = 'bicubic',
            channels: str = 'rgb', array_order: str = 'bgr', **reading: object) -> None:
        super().__init__(size, interpolation, channels, array_order, resize, **reading)

    def __call__(self, results: dict) -> dict:
        size = results.pop('size', self.size)
        img = self.load(results)
        height, width = img.shape[:2]
        factor = self.resize / min(height, width) if self.resize else max(size[0] / height, size[1] / width)
        # The side that sets the factor comes out exact, the other is cut as in torchvision.
        whole = [int(side * factor + 1e-6) for side in (height, width)]
        top, left = (round((w - s) / 2) for w, s in zip(whole, size, strict=True))
        view = resize(img, whole, self.interpolation)
        results['inputs'] = view[:, top:top + size[0], left:left + size[1]].contiguous()
        return results
