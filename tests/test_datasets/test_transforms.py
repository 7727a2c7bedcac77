"""Crops against torchvision, resizing against Pillow."""

import math

import numpy as np
import pytest
import torch
from helpers.images import photo, pixels
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize

from mae_mm.datasets import DecodeError, LoadRandomResizedCrop, LoadResizeCenterCrop
from mae_mm.datasets.transforms import crop_box, resize

RGB = Image.fromarray(photo())
RGBA = RGB.copy()
RGBA.putalpha(Image.fromarray(photo(channels=1, seed=1)[..., 0]))


def test_crop_box_by_hand():
    # Half the area at ratio 2 would be 100 x 50 pixels; top 0.5 of 51 rows, left at the end of 1 column.
    noise = [0.5, 1.0, 0.5, 0.999] + [0.0] * 36
    assert crop_box(100, 100, noise, (0.0, 1.0), (0.5, 2.0)) == (25, 0, 50, 100)
    # The first try is too wide for the image (141 px), the second fits.
    noise = [1.0, 1.0, 0.0, 0.0, 0.25, 0.5, 0.1, 0.9] + [0.0] * 32
    assert crop_box(100, 100, noise, (0.0, 1.0), (0.5, 2.0)) == (5, 45, 50, 50)
    # No try fits: the largest centred box whose ratio is in range.
    assert crop_box(10, 100, [0.5] * 40, (0.9, 1.0), (0.75, 4 / 3)) == (0, 43, 10, 13)
    assert crop_box(100, 10, [0.5] * 40, (0.9, 1.0), (0.75, 4 / 3)) == (43, 0, 13, 10)
    assert crop_box(1, 1, [0.5] * 40, (0.2, 1.0), (0.75, 4 / 3)) == (0, 0, 1, 1)


@pytest.mark.parametrize('height, width', [(96, 128), (60, 200)])
def test_crop_box_is_distributed_as_in_torchvision(height, width):
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 3000
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    img = torch.empty(1, height, width)
    ours = np.array([crop_box(height, width, rng.random(40).tolist(), scale, ratio) for _ in range(n)])
    theirs = np.array([RandomResizedCrop.get_params(img, scale, ratio) for _ in range(n)])
    for mine, other in zip(ours.T, theirs.T, strict=True):
        grid = np.arange(max(height, width) + 1)
        cdfs = [np.searchsorted(np.sort(x), grid, side='right') / n for x in (mine, other)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * math.sqrt(2 / n)  # Kolmogorov-Smirnov at p = 0.001
    tops, lefts, heights, widths = ours.T
    assert (tops + heights).max() == height and (lefts + widths).max() == width  # reaches the edge, never beyond


@pytest.mark.parametrize('retries, low, high', [(10, 0.430, 0.436), (1, 0.514, 0.522)])
def test_mean_area_of_linear_probings_crop(retries, low, high):
    """43.3 % of a 500x375 image by torchvision's rule, 51.8 % by that of the release's linear probing."""
    rng = np.random.default_rng(0)
    boxes = [crop_box(375, 500, rng.random(40).tolist(), (0.08, 1.0), (3 / 4, 4 / 3), retries) for _ in range(30000)]
    tops, lefts, heights, widths = np.array(boxes).T
    assert low < (heights * widths).mean() / (375 * 500) < high
    assert (tops + heights).max() == 375 and (lefts + widths).max() == 500 and min(heights.min(), widths.min()) > 0


def test_one_draw_that_does_not_fit_is_cut_by_hand():
    # Twice 5000 px at ratio 2 is 141 x 71: cut to the width; top is half of the 30 rows left.
    assert crop_box(100, 100, [1.0, 1.0, 0.5, 0.9] + [0.0] * 36, (0.0, 1.0), (0.5, 2.0), 1) == (15, 0, 71, 100)
    np.random.seed(0)
    default = LoadRandomResizedCrop(8)({'decoded': photo()})
    np.random.seed(0)
    assert LoadRandomResizedCrop(8, retries=10)({'decoded': photo()})['crop'] == default['crop']


@pytest.mark.parametrize('channels', [1, 3, 4, 7])
@pytest.mark.parametrize('size', [(48, 48), (32, 80), (200, 150)])
def test_resize_is_pillows(channels, size):
    img = photo(130, 170, channels)
    ours = resize(img[7:, 3:150], size)
    bands = [Image.fromarray(np.ascontiguousarray(img[7:, 3:150, c])) for c in range(channels)]
    theirs = torch.stack([torch.from_numpy(np.array(b.resize(size[::-1], Image.BICUBIC))) for b in bands])
    assert ours.dtype == torch.uint8 and ours.is_contiguous() and ours.shape == (channels, *size)
    difference = ours.float() - theirs.float()
    assert difference.abs().mean() < 0.05 and difference.abs().max() <= 2


def test_random_view_is_the_recorded_crop(tmp_path):
    path = str(tmp_path / 'a.jpg')
    RGB.save(path)
    img = Image.open(path)
    transform = LoadRandomResizedCrop((48, 32))
    flips = []
    for _ in range(20):
        results = transform({'img_path': path})
        top, left, height, width = results['crop']
        cut = img.crop((left, top, left + width, top + height)).resize((32, 48), Image.BICUBIC)
        cut = pixels(ImageOps.mirror(cut) if results['flip'] else cut)
        assert results['inputs'].shape == (3, 48, 32) and results['inputs'].is_contiguous()
        assert (results['inputs'].float() - cut.float()).abs().mean() < 0.05
        flips.append(results['flip'])
    assert 2 < sum(flips) < 18
    assert not any(LoadRandomResizedCrop(8, flip_prob=0.0)({'img_path': path})['flip'] for _ in range(20))


def test_random_view_repeats_with_numpys_seed():
    transform = LoadRandomResizedCrop(32)

    def views(seed):
        np.random.seed(seed)
        return [transform({'decoded': photo()})['inputs'] for _ in range(3)]

    first, again, other = views(1), views(1), views(2)
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize('make', [LoadRandomResizedCrop, LoadResizeCenterCrop])
def test_decoded_images_take_the_same_way(tmp_path, make):
    path = str(tmp_path / 'a.png')
    RGB.save(path)
    results = []
    for source in ({'img_path': path}, {'decoded': photo()}, {'img': photo()[..., ::-1]}):
        np.random.seed(0)
        results.append(make(32)(source))
    assert all(torch.equal(r['inputs'], results[0]['inputs']) and not {'img', 'decoded'} & set(r) for r in results)


@pytest.mark.parametrize('shape', [(120, 160), (161, 97), (50, 300), (30, 20)])
@pytest.mark.parametrize('size, short', [(48, None), (48, 64), ((32, 48), 56)])
def test_center_view_is_torchvisions(shape, size, short):
    img = photo(*shape)
    ours = LoadResizeCenterCrop(size, short)({'decoded': img})['inputs']
    resized = Resize(short or size, Image.BICUBIC)(Image.fromarray(img))
    theirs = pixels(CenterCrop(size)(resized))
    assert ours.shape == theirs.shape and ours.is_contiguous()
    assert (ours.float() - theirs.float()).abs().mean() < 0.05


def test_center_view_covers_a_rectangle():
    img = photo(100, 100)
    ours = LoadResizeCenterCrop((40, 80))({'decoded': img})['inputs']
    theirs = pixels(Image.fromarray(img).resize((80, 80), Image.BICUBIC).crop((0, 20, 80, 60)))
    assert (ours.float() - theirs.float()).abs().mean() < 0.05


@pytest.mark.parametrize('channels, bands', [('rgb', 3), ('gray', 1), ('unchanged', 4)])
def test_channels(tmp_path, channels, bands):
    RGBA.save(tmp_path / 'a.png')
    results = LoadRandomResizedCrop(16, channels=channels)({'img_path': str(tmp_path / 'a.png')})
    assert results['inputs'].shape == (bands, 16, 16)


@pytest.mark.parametrize('options, message', [
    ({'size': 0}, 'size is 0'),
    ({'size': 8, 'scale': (0.0, 1.0)}, 'scale is'),
    ({'size': 8, 'scale': (0.2, 1.5)}, 'scale is'),
    ({'size': 8, 'interpolation': 'nearest'}, "interpolation is 'nearest'"),
    ({'size': 8, 'channels': 'bgr'}, "channels is 'bgr'"),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LoadRandomResizedCrop(**options)


def test_resize_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match=r'resize is 40, too small for size \(32, 48\); give 48 or more'):
        LoadResizeCenterCrop((32, 48), 40)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(DecodeError, match=f'cannot read {tmp_path}/gone.jpg: .*No such file'):
        LoadResizeCenterCrop(8)({'img_path': f'{tmp_path}/gone.jpg'})


def test_transforms_resolve_by_scope():
    transform = TRANSFORMS.build({'type': 'mae_mm.LoadRandomResizedCrop', 'size': (8, 16)})
    assert isinstance(transform, LoadRandomResizedCrop) and 'size=(8, 16)' in repr(transform)
