"""What the pixels of a data set are like, band by band, in one pass."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

PERCENTILES = (2, 50, 98)
PIXELS = 2**21  # kept of each band, at most, for percentiles
PIXELS_OF_IMAGE = 1024


class Summary(NamedTuple):
    """One image; C bands."""

    dtype: str
    mean: np.ndarray  # (C,), as all numbers here of the pixels with data; NaN without any
    variance: np.ndarray  # (C,)
    share: np.ndarray  # (C,), of the pixels that have data
    low: np.ndarray  # (C,)
    high: np.ndarray  # (C,)
    pixels: np.ndarray  # (k, C), some of them, the same places in all bands
    names: tuple[str | None, ...]  # of the bands, if the file has any


class Summarize:
    """The last transform of a pipeline: a `Summary` of `inputs`, (…, C, H, W), or else of `img`, (H, W, C).

    `sample_idx` stays beside it, and tells which image it is.
    """

    def __init__(self, images: int) -> None:
        self.kept = max(1, min(PIXELS_OF_IMAGE, PIXELS // max(images, 1)))

    def __call__(self, results: dict) -> dict:
        inputs = results.get('inputs')
        img = results['img'].transpose(2, 0, 1) if inputs is None else np.moveaxis(inputs.numpy(), -3, 0)
        summary = summarize(img.reshape(len(img), -1), self.kept, results.get('band_names', ()))
        return dict(summary=summary, sample_idx=results.get('sample_idx'))


def summarize(bands: np.ndarray, kept: int, names: tuple[str | None, ...] = ()) -> Summary:
    """(C, pixels) of any type, NaN where there is no data -> their summary, with some of the pixels."""
    rows = []
    for band in bands:  # one after the other: float64 takes eight times the memory
        known = band[np.isfinite(band)].astype(np.float64)
        rows.append([
            *((known.mean(), known.var()) if len(known) else (np.nan, np.nan)), len(known) / band.size,
            known.min(initial=np.inf), known.max(initial=-np.inf)])
    places = np.random.default_rng(0).integers(0, bands.shape[1], kept)
    pixels = bands[:, places].T.astype(np.float32)
    pixels = np.where(np.isfinite(pixels), pixels, np.float32(np.nan))
    return Summary(bands.dtype.name, *np.array(rows).T, pixels, names)


class Statistics(NamedTuple):
    """Of all images that have the most frequent number of bands, C; each image counts the same."""

    images: int
    types: dict[str, int]  # of pixels, and how many images have it
    others: dict[int, int]  # images of other numbers of bands, left out
    mean: list[float]  # C numbers, six digits, as all here
    std: list[float]  # 1 for a constant band
    low: list[float]
    high: list[float]
    percentiles: dict[int, list[float]]
    without_data: list[float]  # share of the pixels
    clipped_mean: list[float]  # of pixels cut to the outer percentiles
    clipped_std: list[float]
    names: dict[tuple[str | None, ...], int]  # of the bands, and how many images have these; () for none


def merge(summaries: Iterable[Summary]) -> Statistics:
    """The statistics of many images; a ValueError if none of them has data."""
    summaries = list(summaries)
    counts = Counter(len(one.mean) for one in summaries)
    (bands, images), *others = counts.most_common() or [(0, 0)]
    chosen = [one for one in summaries if len(one.mean) == bands]
    share = np.array([one.share for one in chosen])  # (images, C)
    if not images or not share.any(0).all():
        raise ValueError(f'{images} images, and no pixel has data in some band')
    weights = share / share.sum(0)
    means = np.array([one.mean for one in chosen])
    mean = np.nansum(weights * means, 0)
    variance = np.nansum(weights * ([one.variance for one in chosen] + (means - mean)**2), 0)
    pixels = np.concatenate([one.pixels for one in chosen])
    percentiles = np.nanpercentile(pixels, PERCENTILES, axis=0)
    clipped = np.clip(pixels, percentiles[0], percentiles[-1]).astype(np.float64)
    low, high = np.min([one.low for one in chosen], 0), np.max([one.high for one in chosen], 0)
    return Statistics(
        images, dict(Counter(one.dtype for one in chosen)), dict(others), _digits(mean),
        _digits(np.where(low < high, np.sqrt(variance), 1)), _digits(low), _digits(high),
        {p: _digits(row) for p, row in zip(PERCENTILES, percentiles, strict=True)}, _digits(1 - share.mean(0)),
        _digits(np.nanmean(clipped, 0)), [one or 1.0 for one in _digits(np.nanstd(clipped, 0))],
        dict(Counter(tuple(one.names) for one in chosen)))


def _digits(values: np.ndarray) -> list[float]:
    return [float(f'{value:.6g}') for value in values]
