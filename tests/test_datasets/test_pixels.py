"""Bits, bands and no-data through the transforms, the data sets, and the pipelines of every host."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pixels import WRITERS, ramp, write_geotiff
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import init_default_scope

from mae_mm.datasets import (
    DecodeError,
    ImageFolder,
    LoadImage,
    LoadRandomCrop,
    LoadRandomResizedCrop,
    LoadResizeCenterCrop,
    decode,
    stored,
)
from mae_mm.datasets.pixels import Reading
from mae_mm.datasets.transforms import resize
from mae_mm.registry import MODELS

EMPTY = 65535


def with_holes() -> np.ndarray:
    """A ramp whose left half has no data."""
    img = ramp()
    img[:, :20] = EMPTY
    return img


@pytest.fixture
def holes(tmp_path: Path) -> dict:
    write_geotiff(tmp_path / 'a.tif', with_holes(), nodata=EMPTY)
    return dict(img_path=str(tmp_path / 'a.tif'))


CROPS = {
    'random resized crop': LoadRandomResizedCrop((20, 24), dtype='keep', channels='unchanged', flip_prob=1),
    'centre crop': LoadResizeCenterCrop((20, 24), dtype='keep', channels='unchanged'),
    'random crop': LoadRandomCrop((20, 24), dtype='keep', channels='unchanged', flip_prob=1),
}


@pytest.mark.parametrize('load', CROPS.values(), ids=CROPS)
@pytest.mark.parametrize('kind', ['geotiff', 'npy', 'rgb png'])
def test_crops_keep_16_bits(load, kind: str, tmp_path: Path) -> None:
    extension, bands, write = WRITERS[kind]
    img = ramp(bands) * 5
    write(tmp_path / f'a.{extension}', img)
    view = load(dict(img_path=str(tmp_path / f'a.{extension}')))['inputs']
    assert view.dtype == torch.uint16 and view.shape == (bands, 20, 24) and view.is_contiguous()
    steps = view.int().unique().diff()
    assert steps.min() < 6 and len(steps) > 256  # what is cut to 8 bits has steps of 256


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'float32', 'int8'])
def test_resizing_keeps_type_and_range(dtype: str) -> None:
    info = np.finfo(dtype) if dtype == 'float32' else np.iinfo(dtype)
    high = 1000 if dtype == 'float32' else info.max
    img = np.where(np.arange(16)[:, None, None] % 8 < 4, high, 0).repeat(16, 1).astype(dtype)
    np.testing.assert_array_equal(resize(img, (16, 16)).permute(1, 2, 0).numpy(), img)
    larger = resize(img, (32, 32))  # bicubic: overshoots
    assert larger.dtype == getattr(torch, dtype)
    assert dtype == 'float32' or (larger.int().max() == high and larger.int().min() >= info.min)
    assert (larger.float().amax((1, 2)) > 0.9 * high).all() and larger.shape == (1, 32, 32)


def test_no_data_survives_crop_resize_and_flip(holes: dict) -> None:
    """NaN where a pixel of the result covers one without data; the others are as if all had data."""
    full = LoadImage()(dict(holes))['img']
    assert full.dtype == np.float32 and np.array_equal(np.isnan(full), with_holes() == EMPTY)
    view = LoadResizeCenterCrop((20, 24), dtype='keep', channels='unchanged')(dict(holes))['inputs']
    whole = resize(ramp().astype(np.float32), (20, 24))
    assert view[:, :, :10].isnan().all() and not view[:, :, 11:].isnan().any()
    torch.testing.assert_close(view[:, :, 13:], whole[:, :, 13:], rtol=0, atol=1)
    crop = LoadRandomCrop((20, 24), resize=24, flip_prob=1, dtype='keep', channels='unchanged')
    assert crop(dict(holes))['inputs'].isnan().any((0, 1))[-8:].all()


def test_what_counts_as_no_data(tmp_path: Path) -> None:
    img = ramp().astype(np.float32)
    img[0, 0], img[1, 1], img[2, 2] = np.nan, np.inf, -9999
    np.save(tmp_path / 'a.npy', img)
    source = dict(img_path=str(tmp_path / 'a.npy'))

    def missing(nodata: float | str | None) -> list[tuple[int, ...]]:
        out = LoadImage(nodata=nodata)(dict(source))['img']
        return [tuple(one) for one in np.argwhere(np.isnan(out).all(-1)).tolist()]

    assert missing('file') == missing(None) == [(0, 0), (1, 1)]
    assert missing(-9999) == [(0, 0), (1, 1), (2, 2)]


def test_an_image_without_any_data_is_unreadable_and_a_crop_is_not(tmp_path: Path, holes: dict) -> None:
    write_geotiff(tmp_path / 'b.tif', np.full_like(ramp(), EMPTY), nodata=EMPTY)
    opened = Reading('keep').open(str(tmp_path / 'b.tif'), 'unchanged', 'b.tif')
    for index in ((slice(None), slice(None)), (slice(3, 9), slice(3, 9))):
        with pytest.raises(DecodeError, match=r'cannot read b\.tif: no pixel has data'):
            opened[index]
    part = Reading('keep').open(holes['img_path'], 'unchanged', 'a.tif')[3:9, 3:9]
    assert np.isnan(part).all()


def test_an_empty_crop_of_a_large_image_does_not_read_all_of_it(tmp_path: Path, monkeypatch) -> None:
    img = np.full((4000, 48, 1), EMPTY, np.uint16)
    img[600, 3] = 1
    write_geotiff(tmp_path / 'a.tif', img, nodata=EMPTY, tiled=True, blockxsize=16, blockysize=16)
    monkeypatch.setattr(stored, 'MAX_PIXELS', 4000 * 48 - 1)
    assert np.isnan(Reading('keep').open(str(tmp_path / 'a.tif'), 'unchanged', 'a.tif')[3:9, 3:9]).all()


def test_arrays_of_other_loaders_are_read_like_files(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', ramp())
    for options in (dict(bands=[4, 3, 2]), dict(bands=6, nodata=int(ramp()[0, 0, 0]))):
        from_file = LoadImage(**options)(dict(img_path=str(tmp_path / 'a.npy')))['img']
        np.testing.assert_array_equal(LoadImage(**options)(dict(img=ramp()))['img'], from_file)
    with pytest.raises(DecodeError, match='an image of 6 bands, and bands=5'):
        LoadImage(bands=5)(dict(img=ramp()))
    some = np.float32([[[1, 2, -9]]])
    assert np.isnan(LoadImage('gray', nodata=-9)(dict(img=some))['img']).all()


def test_a_window_beyond_the_type_does_not_wrap(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.full((4, 4), 7, np.uint8))
    assert (LoadImage(window=(400, 100))(dict(img_path=str(tmp_path / 'a.npy')))['img'] == 255).all()


def test_batches_need_one_type_and_number_of_bands(tmp_path: Path, holes: dict) -> None:
    with pytest.raises(DecodeError, match=r"a\.tif: pixels of float32, because of the no-data value 65535.*'uint16'"):
        LoadImage(dtype='uint16')(dict(holes))
    assert LoadImage(dtype='uint16', nodata=None)(dict(holes))['img'].dtype == np.uint16
    np.save(tmp_path / 'a.npy', ramp(3, dtype='uint8'))
    assert LoadImage(dtype='float32', bands=3)(dict(img_path=str(tmp_path / 'a.npy')))['img'].dtype == np.float32
    with pytest.raises(DecodeError, match=r'a\.npy: an image of 3 bands'):
        LoadRandomResizedCrop(8, dtype='keep', bands=6)(dict(img_path=str(tmp_path / 'a.npy')))


@pytest.mark.parametrize('options, message', [
    (dict(dtype='uint32'), "dtype is 'uint32'; choose from"),
    (dict(dtype='uint8', bands=6), "for dtype='keep'"),
    (dict(bands=0), 'bands=0 must be'), (dict(bands='nir'), "bands='nir' must be"), (dict(bands=[0]), r'bands=\[0\]'),
    (dict(nodata='NaN'), "nodata='NaN' must be a number"), (dict(window=5), 'window=5 must be two numbers'),
    (dict(channels='rbg'), "channels is 'rbg'")])
def test_options_that_mean_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadImage(**options)


@pytest.mark.parametrize('channels, bands, expected', [('rgb', 1, [0, 0, 0]), ('rgb', 3, [0, 1, 2]), ('gray', 1, [0])])
def test_colours(channels: str, bands: int, expected: list[int], tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', ramp(bands))
    source = dict(img_path=str(tmp_path / 'a.npy'))
    np.testing.assert_array_equal(LoadImage(channels)(dict(source))['img'], ramp(bands)[..., expected])


def test_gray_of_colours_and_too_many_bands(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.full((4, 4, 3), (100, 200, 300), np.uint16))
    assert (LoadImage('gray')(dict(img_path=str(tmp_path / 'a.npy')))['img'] == 182).all()  # 29.9 + 117.4 + 34.2
    np.save(tmp_path / 'b.npy', ramp())
    with pytest.raises(DecodeError, match=r"b\.npy.*channels='rgb' it must be"):
        LoadImage('rgb')(dict(img_path=str(tmp_path / 'b.npy')))


def test_16_bits_are_not_cut_in_silence() -> None:
    import cv2
    data = cv2.imencode('.png', ramp(1))[1].tobytes()
    with pytest.warns(UserWarning, match="dtype='keep'"):
        decode(data)


@pytest.mark.parametrize('cache', ['none', 'memory'])
def test_a_folder_of_multiband_images(cache: str, tmp_path: Path) -> None:
    """Windows, batches and the cache; the file that has other bands is an error that names it."""
    for i in range(3):
        write_geotiff(tmp_path / f'{i}.tif', ramp() + np.uint16(i))
    write_geotiff(tmp_path / '3.tif', ramp(4))
    load = dict(type='mae_mm.LoadResizeCenterCrop', size=(40, 48), dtype='uint16', bands=6)
    dataset = ImageFolder(tmp_path, [load], cache=cache)
    batch = default_collate([dataset[i] for i in range(3)])
    assert batch['inputs'].dtype == torch.uint16
    for i in range(3):
        np.testing.assert_array_equal(batch['inputs'][i].permute(1, 2, 0).numpy(), ramp() + np.uint16(i))
    with pytest.raises(DecodeError, match=r'3\.tif: an image of 4 bands'):
        dataset[3]


MEAN, STD = [100.0 * (i + 1) for i in range(6)], [50.0 + i for i in range(6)]
HOSTS = {
    'mmpretrain': (
        [dict(type='mmcv.RandomFlip', prob=1.0), dict(type='PackInputs')], dict(type='mmpretrain.ClsDataPreprocessor'),
        default_collate),
    'mmdet': (
        [dict(type='Resize', scale=(48, 40)), dict(type='RandomFlip', prob=1.0),
         dict(type='PackDetInputs', meta_keys=())],
        dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32), pseudo_collate),
    'mmseg': (
        [dict(type='Resize', scale=(48, 40)), dict(type='RandomFlip', prob=1.0),
         dict(type='PackSegInputs', meta_keys=())],
        dict(type='mmseg.SegDataPreProcessor', size=(64, 64)), pseudo_collate),
}


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('kind', ['geotiff', 'holes'])
def test_bits_and_no_data_through_the_pipelines_of_hosts(host: str, kind: str, holes: dict, tmp_path: Path) -> None:
    """From the file to the model: flipped, normalised by band, padded by the host, 0 where there is no data."""
    img = ramp() if kind == 'geotiff' else with_holes()
    if kind == 'geotiff':
        write_geotiff(tmp_path / 'a.tif', img)
    steps, config, collate = HOSTS[host]
    pytest.importorskip(host)
    init_default_scope(host)
    pipeline = Compose([dict(type='mae_mm.LoadImage', bands=6), *steps])
    sample = pipeline(dict(img_path=str(tmp_path / 'a.tif'), gt_label=0, seg_fields=[]))
    preprocessor = MODELS.build(dict(type='mae_mm.ImagePreprocessor', mean=MEAN, std=STD, host=config))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        out = preprocessor(collate([sample]), training=True)
    expected = (img[:, ::-1].transpose(2, 0, 1) - np.reshape(MEAN, (-1, 1, 1))) / np.reshape(STD, (-1, 1, 1))
    expected[np.broadcast_to((img[:, ::-1] == EMPTY).transpose(2, 0, 1), expected.shape)] = 0
    np.testing.assert_allclose(out['inputs'][0, :, :40, :48].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not out['inputs'][0, :, 40:].any() and out['data_samples'] is not None
