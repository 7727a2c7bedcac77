"""Reduced decoding of large JPEGs against Pillow's, and several views of one decode."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from mae_mm.benchmark.images import draw_jpegs
from mae_mm.datasets import DecodeError, ImageFolder, LoadRandomResizedCrop
from mae_mm.datasets.decode import decode
from mae_mm.datasets.jpeg import (
    _jpeg_crop,
    croppable_size,
    decode_crop,
    decode_reduced,
    jpeg_orientation,
    jpeg_size,
    reduce_box,
    reducible_size,
    reduction,
)
from mae_mm.models.data_preprocessor import ImagePreprocessor


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> Image.Image:
    """301x403 pixels with the spectrum of a photograph."""
    folder = draw_jpegs(tmp_path_factory.mktemp('photo'), 1, 301, 403, blur=1.0)
    return Image.open(folder / '00000.jpg').convert('RGB')


def encode(img: Image.Image, orientation: int = 1, fmt: str = 'JPEG', **options) -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    img.save(buffer, fmt, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}])
def test_size_is_read_from_the_header(photo, mode, options):
    assert jpeg_size(encode(photo.convert(mode), 3, **options)) == (301, 403)


@pytest.mark.parametrize('data', [b'', b'\xff\xd8', b'\xff\xd8\xff\xe0', b'\xff\xd8' + bytes(50), b'PNG'])
def test_size_of_what_is_no_jpeg(data):
    assert jpeg_size(data) is None


def test_what_may_be_reduced(photo):
    assert reducible_size(encode(photo), (48, 48)) == (301, 403)
    assert reducible_size(encode(photo, 6), (48, 48)) is None  # no whole blocks
    assert reducible_size(encode(photo.crop((0, 0, 400, 296)), 6), (48, 48)) == (400, 296)  # upright
    assert reducible_size(encode(photo), (101, 101)) is None  # no crop can have 303 rows
    assert reducible_size(encode(photo)[:-2], (48, 48)) is None  # cut off
    assert reducible_size(encode(photo.convert('CMYK')), (48, 48)) is None
    assert reducible_size(encode(photo, fmt='PNG'), (48, 48)) is None


@pytest.mark.parametrize(('boxes', 'factor'), [
    ([(0, 0, 96, 144)], 1), ([(0, 0, 144, 144)], 2), ([(0, 0, 287, 999)], 2), ([(0, 0, 288, 288)], 4),
    ([(0, 0, 576, 999)], 8), ([(0, 0, 999, 999), (0, 0, 100, 999)], 1)])
def test_half_as_many_pixels_again_are_left(boxes, factor):
    assert reduction(boxes, (48, 48)) == factor


@pytest.mark.parametrize('channels', ['rgb', 'gray'])
@pytest.mark.parametrize('factor', [2, 4, 8])
@pytest.mark.parametrize('orientation', [1, 2, 3, 6, 8])
def test_reduced_pixels_are_those_of_pillow(photo, channels, factor, orientation):
    data = encode(photo, orientation)
    reference = Image.open(BytesIO(data))
    reference.draft({'rgb': 'RGB', 'gray': 'L'}[channels], (403 // factor, 301 // factor))
    assert reference.size == (-(-403 // factor), -(-301 // factor))
    want = np.array(ImageOps.exif_transpose(reference))
    assert np.array_equal(decode_reduced(data, factor, channels).squeeze(), want)


def test_boxes_stay_inside():
    assert reduce_box((10, 20, 100, 200), 4, (300, 400)) == (2, 5, 25, 50)
    assert reduce_box((1, 0, 300, 403), 2, (301, 403)) == (0, 0, 150, 201)
    assert reduce_box((7, 3, 20, 30), 1, (300, 400)) == (7, 3, 20, 30)


@pytest.mark.parametrize(('width', 'height', 'orientation'), [(403, 301, 1), (400, 296, 6), (400, 296, 3)])
def test_view_is_the_recorded_crop_of_the_reduced_image(photo, tmp_path, width, height, orientation):
    """What is returned is the crop that is recorded, within the 2/255 by which the box filter of the DCT differs."""
    path = tmp_path / 'a.jpg'
    path.write_bytes(encode(photo.crop((0, 0, width, height)), orientation, quality=95))
    upright = ImageOps.exif_transpose(Image.open(path))
    transform, reduced = LoadRandomResizedCrop((40, 32)), 0
    for seed in range(12):
        np.random.seed(seed)
        results = transform({'img_path': str(path)})
        top, left, height, width = results['crop']
        assert top + height <= upright.height and left + width <= upright.width
        cut = upright.crop((left, top, left + width, top + height)).resize((32, 40), Image.BICUBIC)
        want = np.array(ImageOps.mirror(cut) if results['flip'] else cut).transpose(2, 0, 1)
        error = np.abs(results['inputs'].numpy().astype(int) - want).mean()
        factor = reduction([(0, 0, height, width)], (40, 32))
        assert error < (0.05 if factor == 1 else 2), (factor, error)
        reduced += factor > 1
    assert reduced > 0


# --- the crop decoder


@pytest.fixture
def crop_decoder() -> None:
    if _jpeg_crop is None and not Path('/usr/include/jpeglib.h').exists():
        pytest.skip('optional: built where the headers of libjpeg-turbo are')


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('channels', ['rgb', 'gray'])
@pytest.mark.parametrize('options', [
    {}, {'subsampling': 0}, {'subsampling': 1}, {'quality': 30}, {'restart_marker_blocks': 3}])
def test_a_crop_has_the_pixels_of_the_whole_image(crop_decoder, photo, mode, channels, options):
    data = encode(photo.convert(mode), **options)
    whole, rng = decode(data, channels).permute(1, 2, 0).numpy(), np.random.default_rng(0)
    corners = [(0, 0, 301, 403), (300, 402, 1, 1), (0, 0, 1, 1), (299, 0, 2, 403), (0, 17, 301, 1)]
    for _ in range(20):
        height, width = rng.integers(1, 302), rng.integers(1, 404)
        corners.append((rng.integers(0, 302 - height), rng.integers(0, 404 - width), height, width))
    assert croppable_size(data) == (301, 403)
    for top, left, height, width in corners:
        crop = decode_crop(data, (top, left, height, width), channels)
        assert np.array_equal(crop, whole[top:top + height, left:left + width]), (top, left, height, width)


def test_what_the_usual_decoder_shall_read(crop_decoder, photo):
    """Turned by EXIF, cut off, progressive, CMYK, damaged before the crop's end, no JPEG, smaller than the box."""
    assert croppable_size(encode(photo, 6)) is None and jpeg_orientation(encode(photo, 6)) == 6
    assert croppable_size(encode(photo)[:-2]) is None and croppable_size(encode(photo, fmt='PNG')) is None
    data = encode(photo)
    damaged = data[:len(data) // 2] + data[-2:]
    box = (150, 10, 100, 100)
    for file in (encode(photo, progressive=True), encode(photo.convert('CMYK')), damaged, b'', data[:300]):
        assert decode_crop(file, box, 'rgb') is None
    assert decode_crop(damaged, (0, 10, 50, 100), 'rgb') is not None
    assert decode_crop(data, (150, 10, 152, 100), 'rgb') is None and decode_crop(data, (0, 400, 1, 4), 'rgb') is None
    with pytest.raises(ValueError, match='lies at 0 or more'):
        decode_crop(data, (-1, 0, 10, 10), 'rgb')


@pytest.mark.parametrize('options', [
    {}, {'orientation': 6}, {'progressive': True}, {'mode': 'L'}, {'mode': 'CMYK'}, {'fmt': 'PNG'}])
def test_views_are_the_same_with_and_without_the_crop_decoder(crop_decoder, photo, tmp_path, monkeypatch, options):
    path = tmp_path / 'a.img'
    path.write_bytes(encode(photo.convert(options.pop('mode', 'RGB')), **options))
    decoded = []
    monkeypatch.setattr('mae_mm.datasets.transforms.decode_crop', lambda *args: decoded.append(
        decode_crop(*args)) or decoded[-1])
    for seed in range(8):
        views = []
        for crop_decoder in (True, False):
            np.random.seed(seed)
            views.append(LoadRandomResizedCrop(112, crop_decoder=crop_decoder)({'img_path': str(path)}))
        assert torch.equal(views[0]['inputs'], views[1]['inputs'])
        assert [views[0][key] for key in ('crop', 'flip')] == [views[1][key] for key in ('crop', 'flip')]
    assert len(decoded) == (8 if set(options) <= {'progressive'} else 0)


def test_a_cut_off_large_file_is_still_an_error(photo, tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(encode(photo)[:-3000])
    with pytest.raises(DecodeError, match=r'cannot read .*a\.jpg: .*truncated'):
        LoadRandomResizedCrop(32)({'img_path': str(path)})


def test_views_of_one_decode(photo, tmp_path):
    """k views take the draws, and give the pixels, of k single ones."""
    img, singles = np.array(photo), []
    np.random.seed(3)
    several = LoadRandomResizedCrop((40, 32), repeats=3)({'decoded': img})
    np.random.seed(3)
    for _ in range(3):
        singles.append(LoadRandomResizedCrop((40, 32))({'decoded': img}))
    assert several['inputs'].shape == (3, 3, 40, 32)
    for i, single in enumerate(singles):
        assert torch.equal(several['inputs'][i], single['inputs'])
        assert (several['crop'][i], several['flip'][i]) == (single['crop'], single['flip'])


def test_views_become_images_of_the_batch(photo, tmp_path):
    for i in range(4):
        (tmp_path / f'{i}.jpg').write_bytes(encode(photo.rotate(i)))
    pipeline = [Config(dict(type='mae_mm.LoadRandomResizedCrop', size=16, repeats=2))._cfg_dict]
    batch = next(iter(DataLoader(ImageFolder(tmp_path, pipeline), 4)))
    assert batch['inputs'].shape == (4, 2, 3, 16, 16)
    preprocessor = ImagePreprocessor(mean=[0], std=[1])
    views = preprocessor(batch)['inputs']
    assert views.shape == (8, 3, 16, 16) and torch.equal(views[5], batch['inputs'][2, 1].float())
