"""From the bytes of an image file to a uint8 tensor."""

import warnings
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

from mae_mm.datasets.limits import FORMATS, IN_TILES, MAX_PIXELS, header_size, open_image

CHANNELS = ('rgb', 'gray', 'unchanged')
TURBO_DECODERS = {b'\xff\xd8\xff': decode_jpeg, b'\x89PN': decode_png}  # by the first three bytes of the file
READ_MODES = {'rgb': ImageReadMode.RGB, 'gray': ImageReadMode.GRAY}
PILLOW_MODES = {'rgb': 'RGB', 'gray': 'L'}
TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # little and big endian, 32 and 64-bit offsets


class DecodeError(ValueError):
    """An image file that is broken, or in a format that cannot be read."""


def decode(data: bytes, channels: str = 'rgb') -> Tensor:
    """Decode an image and apply its EXIF orientation; returns (C, H, W) uint8, stored channels last.

    torchvision decodes JPEG and PNG, to Pillow's pixels in less time; Pillow reads the other `FORMATS`, and what
    torchvision refuses. 16-bit images keep their upper 8 bits. Transparency is dropped.

    Args:
        data: the content of an image file, or of a `.npy` file with a uint8 array (H, W) or (H, W, C).
        channels: 'rgb' (C = 3), 'gray' (C = 1) or 'unchanged' (as many bands as the file has; palettes become colours).
    """
    size = header_size(data)  # torchvision would allocate any size that a header claims
    if size and size[0] * size[1] > MAX_PIXELS:
        raise DecodeError('{} x {} pixels, more than {:,}: a decompression bomb'.format(*size, MAX_PIXELS))
    turbo = TURBO_DECODERS.get(bytes(data[:3]))
    if turbo is not None and size and channels in READ_MODES:
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            img = turbo(encoded, mode=READ_MODES[channels], apply_exif_orientation=True)
            return img if img.dtype == torch.uint8 else torch.from_numpy(_upper_byte(img.numpy()))
        except RuntimeError:
            pass  # Pillow reads it, or reports why it cannot
    try:
        array = _decode_npy(data, channels) if data[:6] == b'\x93NUMPY' else (
            pillow_array(open_image(BytesIO(data)), channels))
    except UnidentifiedImageError:
        if bytes(data[:4]) in TIFF:
            raise DecodeError("a TIFF that is broken, or has other pixels than 8-bit photographs: dtype='keep' in "
                              'the transform that loads it reads them (docs/pixels.md)') from None
        start = f'not an image, begins with {bytes(data[:12])!r}; supported are {", ".join(FORMATS)}'
        raise DecodeError(start if data else 'empty file') from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        too_large = isinstance(error, Image.DecompressionBombError)
        raise DecodeError(f'{str(error) or type(error).__name__}{IN_TILES * too_large}') from error
    return torch.from_numpy(array).permute(2, 0, 1)


def _upper_byte(img: np.ndarray) -> np.ndarray:
    """uint16 -> uint8."""
    warnings.warn(
        "16-bit images are cut to their upper 8 bits; dtype='keep' in the transform that loads them keeps all "
        '(docs/pixels.md)', stacklevel=2)
    return (img >> 8).astype(np.uint8)


def convert_array(img: np.ndarray, channels: str, order: str, dtype: str = 'uint8') -> np.ndarray:
    """Convert a decoded image to the `channels` of `decode`: (H, W, C), RGB, of the same type.

    Args:
        img: (H, W) or (H, W, C), any strides; C = 1 (gray), 3 (colours) or 4 (with transparency). With
            'unchanged' any C; then only C = 3 is reordered.
        order: 'bgr' or 'rgb', the order of colours in `img`.
        dtype: of `Reading`; with 'uint8' other types are refused.
    """
    img = img[..., None] if img.ndim == 2 else img
    fits = channels == 'unchanged' or img.shape[-1] in (1, 3, 4)
    if (dtype == 'uint8' and img.dtype != np.uint8) or img.ndim != 3 or not fits:
        raise ValueError(
            f'img is an array of {img.dtype} {img.shape}; with channels={channels!r} it must be uint8 (H, W) or '
            "(H, W, C) with C = 1, 3 or 4; channels='unchanged' takes any C, dtype='keep' more than 8 bits")
    if channels != 'unchanged' and img.shape[2] == 4:
        img = img[..., :3]
    if img.shape[2] == 3 and order == 'bgr':
        img = img[..., ::-1]
    img = np.ascontiguousarray(img)
    if channels == 'gray' and img.shape[2] == 3 and img.dtype != np.uint8:
        gray = img.astype(np.float32) @ np.float32([[0.299], [0.587], [0.114]])  # the weights of Pillow
        return gray if img.dtype.kind == 'f' else gray.round().astype(img.dtype)
    if channels == 'gray' and img.shape[2] == 3:
        return np.array(Image.fromarray(img).convert('L'))[..., None]
    return img.repeat(3, axis=2) if channels == 'rgb' and img.shape[2] == 1 else img


def pillow_array(img: Image.Image, channels: str) -> np.ndarray:
    """An image of Pillow, upright, as (H, W, C) uint8 with the `channels` of `decode`."""
    img = ImageOps.exif_transpose(img)
    if img.mode.startswith('I;16'):
        img = Image.fromarray(_upper_byte(np.asarray(img)))
    if img.mode in ('I', 'F'):
        raise DecodeError("32-bit pixels of unknown range; convert the file to 8 or 16 bits, or set dtype='keep'")
    mode = PILLOW_MODES.get(channels, {'1': 'L', 'P': 'RGB', 'PA': 'RGBA'}.get(img.mode, img.mode))
    array = np.array(img.convert(mode))
    return array if array.ndim == 3 else array[..., None]


def _decode_npy(data: bytes, channels: str) -> np.ndarray:
    """Decode to (H, W, C) uint8."""
    array = np.load(BytesIO(data), allow_pickle=False)
    array = array[..., None] if array.ndim == 2 else array
    bands = {'rgb': 3, 'gray': 1}.get(channels, array.shape[-1])
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != bands or not array.size:
        raise DecodeError(f'array of {array.dtype} {array.shape}, must be uint8 (H, W, C) with C = {bands}, not empty')
    return array
