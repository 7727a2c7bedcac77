"""Statistics of bands against NumPy over all pixels at once."""

import numpy as np
import pytest
import torch

from mae_mm.datasets.statistics import PIXELS, Summarize, merge, summarize


def test_equal_numpy_over_all_pixels() -> None:
    """Images of one size: what one call over the pixels of all gives."""
    rng = np.random.default_rng(0)
    imgs = rng.gamma(2, [[[100]], [[5000]]], (20, 2, 30, 40)).astype(np.uint16)
    found = merge(summarize(img.reshape(2, -1), 4000) for img in imgs)
    bands = imgs.transpose(1, 0, 2, 3).reshape(2, -1).astype(np.float64)
    np.testing.assert_allclose(found.mean, bands.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.std, bands.std(1), rtol=1e-5)
    assert (found.low, found.high) == (bands.min(1).tolist(), bands.max(1).tolist())
    for p, values in found.percentiles.items():
        np.testing.assert_allclose(values, np.percentile(bands, p, axis=1), rtol=0.05)
    cut = np.clip(bands, *np.percentile(bands, (2, 98), axis=1)[..., None])
    np.testing.assert_allclose([found.clipped_mean, found.clipped_std], [cut.mean(1), cut.std(1)], rtol=0.02)
    assert found.images == 20 and found.types == {'uint16': 20} and found.without_data == [0, 0] and not found.others


def test_no_data_does_not_count() -> None:
    """Half of one image and all of another; images count by what they have."""
    imgs = np.array([[[1.0, 3, np.nan, np.nan]], [[np.nan] * 4], [[6, 6, 6, np.inf]]], np.float32)
    found = merge(summarize(img, 100) for img in imgs)
    assert found.mean == [pytest.approx((2 * 2 + 3 * 6) / 5)] and found.without_data == [pytest.approx(7 / 12)]
    assert (found.low, found.high, found.percentiles[98]) == ([1], [6], [6])
    with pytest.raises(ValueError, match='no pixel has data in some band'):
        merge([summarize(imgs[1], 9)])


def test_mixed_folders() -> None:
    summaries = [summarize(np.full((bands, 5), 7, dtype), 3)
                 for bands, dtype in ((3, 'uint8'), (3, 'uint16'), (1, 'uint8'), (3, 'uint8'), (4, 'int16'))]
    found = merge(summaries)
    assert found.images == 3 and found.types == {'uint8': 2, 'uint16': 1} and found.others == {1: 1, 4: 1}
    assert found.mean == [7] * 3 and found.std == [1] * 3  # a constant band is not divided by 0


def test_views_and_images_are_summarized_alike() -> None:
    img = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(3, 4, 2)
    view = torch.from_numpy(img.transpose(2, 0, 1).copy())
    one, other = (Summarize(10)(sample)['summary'] for sample in (dict(img=img), dict(inputs=view)))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    several = Summarize(10)(dict(inputs=torch.stack([view, view])))['summary']  # repeats=2
    np.testing.assert_array_equal(several.mean, one.mean)
    assert Summarize(10**9).kept == 1 and Summarize(PIXELS // 2).kept == 2
