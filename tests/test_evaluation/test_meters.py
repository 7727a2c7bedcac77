"""Meters: planted spectra, attention made by hand, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from mae_mm.evaluation.meters import alpha_req, attention_distance, rankme


def planted(variances: Tensor, num: int, seed: int = 0) -> Tensor:
    """Features of `num` images whose covariance has exactly these D eigenvalues, in a random basis: (num, D)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num, len(variances), generator=generator, dtype=torch.float64)
    white = torch.linalg.qr(noise - noise.mean(0)).Q * math.sqrt(num - 1)
    basis = torch.linalg.qr(torch.randn(len(variances), len(variances), generator=generator, dtype=torch.float64)).Q
    return (white * variances.sqrt()) @ basis


def test_rank_of_equal_directions() -> None:
    """Twelve of twenty directions, equally strong; then one of them alone."""
    variances = torch.zeros(20, dtype=torch.float64)
    variances[:12] = 3.0
    assert rankme(planted(variances, 100)) == pytest.approx(12, rel=1e-6)
    assert rankme(torch.ones(50, 1) @ torch.randn(1, 8)) == pytest.approx(1, abs=1e-5)  # constant features: collapse


def test_rank_by_hand() -> None:
    """Singular values 3 and 1: shares 3/4 and 1/4, entropy 0.5623 nats."""
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rankme(features) == pytest.approx(math.exp(entropy), rel=1e-9)
    assert rankme(100 * features) == pytest.approx(rankme(features))


@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.3])
def test_planted_power_law(alpha: float) -> None:
    variances = torch.arange(1, 129, dtype=torch.float64) ** -alpha
    features = planted(variances, 400)
    assert alpha_req(features) == pytest.approx(alpha, rel=1e-6)
    assert alpha_req(5 * features + 3) == pytest.approx(alpha, rel=1e-6)  # neither scale nor mean matters
    expected = variances.sqrt() / variances.sqrt().sum()
    assert rankme(features) == pytest.approx(float(torch.exp(-(expected * expected.log()).sum())), rel=1e-6)


def test_only_the_given_ranks_are_fitted() -> None:
    rank = torch.arange(1, 101, dtype=torch.float64)
    variances = torch.where(rank <= 20, rank ** -1.0, 20.0 * rank ** -2.0)  # the law bends at rank 20
    features = planted(variances, 300)
    assert alpha_req(features, (2, 20)) == pytest.approx(1, rel=1e-6)
    assert alpha_req(features, (20, 90)) == pytest.approx(2, rel=1e-6)
    assert 1 < alpha_req(features) < 2


def test_every_octave_weighs_the_same() -> None:
    """The law bends in the middle of ranks 1 … 256 on a log scale: the exponent is the mean of both halves.

    Without weights the upper half, 240 of 256 ranks, would decide.
    """
    rank = torch.arange(1, 257, dtype=torch.float64)
    variances = torch.where(rank <= 16, rank ** -1.0, 16.0 * rank ** -2.0)
    assert alpha_req(planted(variances, 600), (1, 256)) == pytest.approx(1.5, abs=0.1)


def test_attention_by_hand() -> None:
    """Three patches in a row behind a class token. Head 0 looks at itself, head 1 at the last patch, head 2 everywhere.

    Head 3 gives most to the class token, and of the rest one half each to the first and the last patch.
    """
    weights = torch.zeros(2, 4, 4, 4)
    weights[:, 0] = torch.eye(4)
    weights[:, 1, :, 3] = 1
    weights[:, 2] = 0.25
    weights[:, 3] = torch.tensor([0.8, 0.1, 0.0, 0.1])
    distances = attention_distance(weights, (1, 3))
    torch.testing.assert_close(distances, torch.tensor([0.0, 1.0, 8 / 9, 1.0]))


def test_attention_on_a_grid() -> None:
    """Two rows, three columns; every patch looks at the first alone: 0 1 2 and 1 √2 √5. Two images are averaged."""
    weights = torch.zeros(2, 1, 6, 6)
    weights[0, ..., 0] = 1
    weights[1] = torch.eye(6)
    expected = (0 + 1 + 2 + 1 + math.sqrt(2) + math.sqrt(5)) / 6 / 2
    torch.testing.assert_close(attention_distance(weights, (2, 3)), torch.tensor([expected]))


@pytest.mark.parametrize(('meter', 'features', 'message'), [
    (rankme, torch.randn(8, 8), r'\(8, 8\).* more images than features'),
    (alpha_req, torch.randn(40, 64), r'\(40, 64\).* more images than features'),
    (rankme, torch.zeros(9, 4), 'all features are zero'),
    (alpha_req, torch.ones(99, 40), 'features of 99 images are all the same'),
    (alpha_req, 1 + 1e-9 * torch.randn(99, 40, dtype=torch.float64), 'are all the same'),  # but for rounding
    (alpha_req, torch.randn(99, 1) @ torch.randn(1, 40), 'span only 1 dimensions'),
    (alpha_req, torch.randn(99, 10), r'ranks 5 … 5 of 10 features'),
    (rankme, torch.full((9, 4), torch.nan), 'not finite'),
])
def test_refused_features(meter, features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meter(features)


def test_refused_ranks_and_attention() -> None:
    with pytest.raises(ValueError, match=r'ranks 0 … 20 of 30 features'):
        alpha_req(torch.randn(99, 30), (0, 20))
    with pytest.raises(ValueError, match=r'\(1, 2, 5, 5\) does not cover 2x3 patches'):
        attention_distance(torch.rand(1, 2, 5, 5), (2, 3))
