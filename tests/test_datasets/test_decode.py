"""Decoding against Pillow: formats, orientations, broken files and decompression bombs."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import encode, photo, pixels
from PIL import Image, ImageOps

from mae_mm.datasets import DecodeError, LoadRandomResizedCrop, decode

RGB = Image.fromarray(photo())
RGBA = RGB.copy()
RGBA.putalpha(Image.fromarray(photo(channels=1, seed=1)[..., 0]))
SMALL = Image.fromarray(photo(48, 64))
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize('img, fmt, options', [
    (RGB, 'JPEG', {}),
    (RGB, 'JPEG', {'progressive': True, 'subsampling': 0}),
    (RGB.convert('L'), 'JPEG', {}),
    (RGB.convert('CMYK'), 'JPEG', {}),
    (RGB, 'PNG', {}),
    (RGB.convert('P'), 'PNG', {'transparency': 3}),
    (RGB.convert('1'), 'PNG', {}),
    (RGBA, 'PNG', {}),
    (RGBA.convert('LA'), 'PNG', {}),
    (RGB, 'WEBP', {}),
    (RGB, 'TIFF', {}),
    (RGB.convert('CMYK'), 'TIFF', {}),
    (RGB, 'BMP', {}),
    (RGB.convert('P'), 'GIF', {}),
], ids=lambda x: getattr(x, 'mode', x) if not isinstance(x, dict) else ','.join(x))
def test_decode_gives_pillows_pixels(img, fmt, options):
    data = encode(img, fmt, **options)
    reference = Image.open(BytesIO(data))
    rgb, gray = decode(data), decode(data, 'gray')
    assert rgb.dtype == gray.dtype == torch.uint8
    assert torch.equal(rgb, pixels(reference.convert('RGB')))
    # JPEG's own luma rather than the luma of clipped RGB, hence some grey levels.
    assert gray.shape == (1, *rgb.shape[1:])
    assert (gray.float() - pixels(reference.convert('L')).float()).abs().mean() < 1


@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_decode_applies_the_exif_orientation(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, fmt, exif=exif)
    img = decode(data)
    assert img.shape[1:] == ((120, 160) if orientation < 5 else (160, 120))
    assert torch.equal(img, pixels(ImageOps.exif_transpose(Image.open(BytesIO(data)))))


@pytest.mark.parametrize('fmt', ['PNG', 'TIFF'])
def test_decode_keeps_the_upper_byte_of_16_bit_images(fmt):
    low, high = photo(channels=1, seed=2)[..., 0], photo(channels=1)[..., 0]
    data = encode(Image.fromarray(high.astype(np.uint16) * 256 + low), fmt)
    want = torch.from_numpy(high)[None]
    assert torch.equal(decode(data, 'gray'), want)
    assert torch.equal(decode(data), want.expand(3, -1, -1))


def test_decode_unchanged_keeps_every_band():
    array = photo(channels=7)
    buffer = BytesIO()
    np.save(buffer, array)
    assert torch.equal(decode(buffer.getvalue(), 'unchanged'), torch.from_numpy(array).permute(2, 0, 1))
    assert torch.equal(decode(encode(RGBA, 'PNG'), 'unchanged'), pixels(RGBA))
    assert torch.equal(decode(encode(RGB.convert('P'), 'PNG'), 'unchanged'), pixels(RGB.convert('P').convert('RGB')))
    with pytest.raises(DecodeError, match=r'array of uint8 \(120, 160, 7\), must be uint8 \(H, W, C\) with C = 3'):
        decode(buffer.getvalue())


@pytest.mark.parametrize('data, reason', [
    (b'', 'empty file'),
    (b'hello, I am no image', 'not an image, begins with'),
    (b'II*\0' + bytes(100), "a TIFF that is broken, or has other pixels .* dtype='keep'"),
    (encode(RGB, 'JPEG')[:2000], 'truncated'),
    (encode(RGB, 'PNG')[:2000], 'truncated'),
    (b'\xff\xd8\xff' + bytes(100), 'not an image'),
    (encode(Image.fromarray(photo(channels=1)[..., 0].astype(np.float32)), 'TIFF'), '32-bit pixels'),
])
def test_decode_says_why_it_cannot(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode(data)


def png_header(width: int, height: int) -> bytes:
    """A few bytes that promise any size."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(
        b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header lies about its size."""
    data = bytearray(encode(SMALL, 'JPEG'))
    place = data.index(b'\xff\xc0') + 5
    data[place:place + 4] = struct.pack('>HH', height, width)
    return bytes(data)


READABLE = {  # (H, W) read as RGB
    'wrong extension': (encode(SMALL, 'PNG'), (48, 64)),
    'cmyk': (encode(SMALL.convert('CMYK'), 'JPEG'), (48, 64)),
    '16 bit': (encode(Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21), 'PNG'), (48, 64)),
    'grayscale': (encode(SMALL.convert('L'), 'JPEG'), (48, 64)),
    'palette': (encode(SMALL.convert('P'), 'PNG'), (48, 64)),
    'alpha': (encode(SMALL.convert('RGBA'), 'PNG'), (48, 64)),
    'animated': (encode(SMALL.convert('P'), 'GIF', save_all=True, append_images=[SMALL.convert('P')]), (48, 64)),
    'exif rotated': (encode(SMALL, 'JPEG', exif=EXIF), (64, 48)),
    '1x1': (encode(SMALL.resize((1, 1)), 'PNG'), (1, 1)),
    '20000x10': (encode(SMALL.resize((20000, 10)), 'PNG'), (10, 20000)),
}
UNREADABLE = {
    'truncated': encode(SMALL, 'JPEG')[:-300],
    'truncated png': encode(SMALL, 'PNG')[:-300],
    'zero bytes': b'',
    'text': b'<html>404</html>',
    'png bomb': png_header(60_000, 60_000),
    'jpeg bomb': jpeg_of_size(65_000, 65_000),
    'gif bomb': b'GIF89a' + struct.pack('<HH', 65_000, 65_000) + encode(SMALL.convert('P'), 'GIF')[10:],
}


@pytest.mark.parametrize('kind', READABLE)
def test_odd_files_are_read(kind: str, tmp_path: Path) -> None:
    data, size = READABLE[kind]
    (tmp_path / 'a.jpg').write_bytes(data)
    img = decode(data)
    assert img.shape == (3, *size)
    if kind in ('wrong extension', 'alpha'):
        np.testing.assert_array_equal(img.permute(1, 2, 0).numpy(), np.asarray(SMALL))
    assert LoadRandomResizedCrop(8)(dict(img_path=str(tmp_path / 'a.jpg')))['inputs'].shape == (3, 8, 8)


@pytest.mark.parametrize('kind', UNREADABLE)
def test_what_cannot_be_read_is_an_error_that_takes_no_memory(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match='bomb' if 'bomb' in kind else None):
        decode(UNREADABLE[kind])
    (tmp_path / 'bad.jpg').write_bytes(UNREADABLE[kind])
    with pytest.raises(DecodeError, match=r'cannot read .*bad\.jpg'):
        LoadRandomResizedCrop(8)(dict(img_path=str(tmp_path / 'bad.jpg')))
