"""Is one start better than another? Intervals, label factors, and a sentence that claims no more than was measured.

All starts share labels, seeds and test images, so that differences are paired.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from mae_mm.transfer.per_image import Score

LEVEL = 0.95  # of all intervals
CLAIM = 0.99  # of the interval that must not hold 0 where a start is called better: several pairs are compared
REPLICATES = 2000


class Curve(NamedTuple):
    """A start's metric over L numbers of labelled images, with S seeds, in percent.

    What is drawn is in step with the other starts, so that `a.minus(b)` is paired.
    """

    labels: tuple[int, ...]  # rising
    by_seed: np.ndarray  # (L, S)
    of_images: np.ndarray  # (R, L, S) replicates of a bootstrap over test images
    seeds: np.ndarray  # (R, L, S) int, seeds of the replicates, each in [0, S)

    @property
    def values(self) -> np.ndarray:
        """(L,) means over seeds."""
        return self.by_seed.mean(1)

    @property
    def intervals(self) -> np.ndarray:
        """(L, 2)."""
        return interval(self.replicates()).T

    def minus(self, other: 'Curve') -> 'Curve':
        """The difference of two starts."""
        return self._replace(by_seed=self.by_seed - other.by_seed, of_images=self.of_images - other.of_images)

    def replicates(self) -> np.ndarray:
        """(R, L) means over seeds, with the spread of test images and seeds.

        With few seeds a bootstrap alone would claim too narrow an interval: their part is widened by sqrt(S / (S - 1))
        and by Student's t for L (S - 1) degrees of freedom. What each seed gets wrong on each image by chance shows
        up among images and among seeds; it is left out of the seeds' part. One seed has no such part.
        """
        means = self.of_images.mean(2)
        count, seeds = self.by_seed.shape
        if seeds == 1:
            return means
        between = self.by_seed.var(1, ddof=1).mean() / seeds  # variance of a mean over seeds
        twice = (self.of_images.var(0).mean() - means.var(0).mean()) / (seeds - 1)
        share = math.sqrt(max(0.0, between - twice) / between) if between else 0.0
        widen = math.sqrt(seeds / (seeds - 1)) * t.ppf((1 + LEVEL) / 2, count * (seeds - 1)) / 1.96
        resampled = self.by_seed[np.arange(count)[:, None], self.seeds].mean(2) - self.values
        return means + share * widen * resampled


class Factor(NamedTuple):
    """How many times the labels the second start needs for the metric of the first."""

    value: float
    low: float
    high: float | None  # None: not bounded by what was measured
    at_least: bool  # the second start never reached the first one's metric
    at_most: bool  # the second start was better with the fewest labels already


class Pair(NamedTuple):
    """The comparison of two starts."""

    first: str
    second: str
    difference: float  # percentage points, mean over the numbers of labels
    low: float
    high: float
    factor: Factor | None  # of the better start, where there is a difference
    sentence: str


def make_curves(
    results: dict[str, dict[int, Sequence[Score]]], images: int, seed: int = 0, replicates: int = REPLICATES,
) -> dict[str, Curve]:
    """Curves with replicates of test images and seeds, drawn alike for all starts.

    Args:
        results: by start and number of labels, the metric of each of S seeds for weights of the test images.
        images: number of test images.
    """
    rng = np.random.default_rng(seed)
    even = np.full((1, images), 1 / images)
    weights = rng.multinomial(images, even[0], size=replicates) / images
    labels = sorted(next(iter(results.values())))
    runs = len(next(iter(results.values()))[labels[0]])
    drawn = rng.integers(runs, size=(replicates, len(labels), runs))
    return {start: Curve(
        tuple(labels), np.array([[score(even)[0] for score in by_labels[number]] for number in labels]),
        np.stack([np.stack([score(weights) for score in by_labels[number]], -1) for number in labels], 1), drawn)
        for start, by_labels in results.items()}


def interval(replicates: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The central interval of replicates along the first axis: (2, …)."""
    return np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)


def compare(curves: dict[str, Curve], metric: str) -> list[Pair]:
    """All pairs of starts, in the order of their names in `curves`."""
    pairs = []
    for first, second in combinations(curves, 2):
        a, b = curves[first], curves[second]
        replicates = a.minus(b).replicates().mean(1)
        low, high = interval(replicates)
        surely_low, surely_high = interval(replicates, CLAIM)
        difference = float((a.values - b.values).mean())
        factor = None
        if surely_low > 0 or surely_high < 0:
            better, worse = (a, b) if surely_low > 0 else (b, a)
            factor = label_factor(better, worse)
        pairs.append(Pair(first, second, difference, float(low), float(high), factor,
                          sentence(first, second, metric, difference, low, high, factor)))
    return pairs


def label_factor(better: Curve, worse: Curve) -> Factor:
    """Geometric mean, over the measured numbers of labels, of the labels that `worse` needs over those of `better`.

    Interpolated on the logarithm of the labels. Where `worse` never reaches the metric, its largest number of labels
    is a lower bound; where it is beyond the metric with the fewest labels, that is an upper one.
    """
    value, state = _factor(better.labels, better.values, worse.values)
    drawn = [_factor(better.labels, a, b)
             for a, b in zip(better.replicates(), worse.replicates(), strict=True)]
    low, high = interval(np.array([one for one, _ in drawn]))
    unbounded = state == 'at least' or np.mean([state == 'at least' for _, state in drawn]) > (1 - LEVEL) / 2
    return Factor(value, float(low), None if unbounded else float(high), state == 'at least', state == 'at most')


def _factor(labels: tuple[int, ...], better: np.ndarray, worse: np.ndarray) -> tuple[float, str]:
    """The factor, and 'measured', or which bound it is."""
    logs = np.log(labels)
    reached = np.maximum.accumulate(worse)  # more labels never hurt: noise may say otherwise
    inside, above, below = [], [], []
    for log, level in zip(logs, better, strict=True):
        if level > reached[-1]:
            above.append(logs[-1] - log)
        elif level < reached[0]:
            below.append(logs[0] - log)
        else:
            i = int(np.searchsorted(reached, level))
            if i == 0 or reached[i] == reached[i - 1]:
                inside.append(logs[i] - log)
            else:
                share = (level - reached[i - 1]) / (reached[i] - reached[i - 1])
                inside.append(logs[i - 1] + share * (logs[i] - logs[i - 1]) - log)
    if inside:
        return math.exp(np.mean(inside)), 'measured'
    return (math.exp(max(above)), 'at least') if above else (math.exp(min(below)), 'at most')


def sentence(
    first: str, second: str, metric: str, difference: float, low: float, high: float, factor: Factor | None,
) -> str:
    """What may be said of a pair."""
    if factor is None:
        return (f'{first} and {second}: no difference beyond chance ({difference:+.1f} points of {metric}, '
                f'{low:+.1f} to {high:+.1f}).')
    better, worse = (first, second) if difference > 0 else (second, first)
    smallest, largest = sorted((abs(low), abs(high)))
    gain = f'{abs(difference):.1f} points of {metric} better, {smallest:.1f} to {largest:.1f}'
    if factor.at_least and factor.low > 1:
        return (f'{better} needs at least {factor.low:.1f} times fewer labels than {worse}, which never reached it '
                f'({gain}).')
    if factor.at_least or factor.at_most or factor.value <= 1:
        return f'{better} is better than {worse} ({gain}); what that is worth in labels was not measured.'
    bounds = f'{factor.low:.1f}–{factor.high:.1f}' if factor.high else f'{factor.low:.1f} or more'
    return f'{better} needs {factor.value:.1f} times fewer labels than {worse} ({bounds}; {gain}).'
