"""Verdicts on simulated results, whose truth is known."""

import numpy as np
import pytest

from mae_mm.transfer.per_image import hit_rate
from mae_mm.transfer.verdict import compare, label_factor, make_curves

LABELS = (50, 250, 1000)


def simulate(rng: np.random.Generator, rates: tuple[float, ...], seeds: int = 3, images: int = 300) -> dict:
    """Hit rates of S seeds on T images, some of which are easier than others."""
    ease = np.random.default_rng(9).normal(size=images)
    logits = [np.log(rate / (1 - rate)) + 0.8 * ease + 0.1 * rng.normal(size=(seeds, 1)) for rate in rates]
    hits = [(rng.random((seeds, images)) < 1 / (1 + np.exp(-one))).astype(float) for one in logits]
    return {number: list(map(hit_rate, one)) for number, one in zip(LABELS, hits, strict=True)}


def verdict(first: tuple[float, ...], second: tuple[float, ...], seed: int = 0) -> object:
    rng = np.random.default_rng(seed)
    pair, = compare(make_curves(dict(A=simulate(rng, first), B=simulate(rng, second)), 300), 'top-1')
    return pair


def test_equal_starts_do_not_differ() -> None:
    """38 of 40 at least: an interval of 95 % errs in one of 20."""
    pairs = [verdict((0.4, 0.6, 0.75), (0.4, 0.6, 0.75), seed) for seed in range(40)]
    assert sum(pair.factor is None and 'no difference' in pair.sentence for pair in pairs) >= 38


def test_a_start_that_is_five_times_ahead() -> None:
    """B reaches with 250 and 1250 labels what A has with 50 and 250."""
    pair = verdict((0.4, 0.6, 0.7), (0.2, 0.4, 0.6))
    assert pair.sentence.startswith('A needs ') and 'fewer labels than B' in pair.sentence
    assert 3.5 < pair.factor.value < 7 and pair.factor.low < pair.factor.value < pair.factor.high
    assert pair.low > 0
    mirrored = verdict((0.2, 0.4, 0.6), (0.4, 0.6, 0.7))
    assert mirrored.high < 0 and mirrored.sentence.startswith('B needs ')


def test_no_factor_beyond_what_was_measured() -> None:
    pair = verdict((0.7, 0.8, 0.9), (0.1, 0.15, 0.2))
    assert pair.factor.at_least and pair.factor.high is None
    assert 'at least 20.0 times fewer labels than B, which never reached it' in pair.sentence  # in all replicates
    barely = verdict((0.2, 0.25, 0.3), (0.15, 0.17, 0.18))
    assert barely.factor.at_least and barely.factor.low < barely.factor.value
    assert f'at least {barely.factor.low:.1f} times' in barely.sentence


def test_hand_worked_factor() -> None:
    """On a logarithmic axis B at 100, 1000 has 20, 40 %; A has 30 % with 100: B needs 316, factor 3.16."""
    def curve(values: list[float]) -> object:
        hits = {number: [hit_rate(np.array([value / 100]))] for number, value in zip((100, 1000), values, strict=True)}
        return make_curves(dict(one=hits), 1)['one']

    factor = label_factor(curve([30, 50]), curve([20, 40]))
    assert factor.value == pytest.approx(10**0.5) and not factor.at_least


def test_one_seed_has_the_interval_of_its_images() -> None:
    hits = np.zeros(400)
    hits[:100] = 1
    low, high = make_curves(dict(A={10: [hit_rate(hits)]}), 400)['A'].intervals[0]
    assert (low, high) == pytest.approx((25 - 4.2, 25 + 4.2), abs=0.6)  # 1.96 * sqrt(0.25 * 0.75 / 400)
