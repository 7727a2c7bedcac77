"""Meters of an encoder that need no labels: numbers of its features and of its attention.

What they are worth for masked autoencoders was measured: docs/meters.md.
"""

import torch
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Effective rank of the features of N images (Garrido et al., RankMe, arXiv:2210.02885).

    The exponential of the entropy of the singular values, which are divided by their sum; from 1 (all images lie on one
    line through the origin) to D (all directions are equally strong). Differs from the paper: no small number is added
    to the singular values before the logarithm.

    Args:
        features: (N, D) float, not centred, one row for each image, N > D.

    Raises:
        ValueError: if there are not more images than features, or if the features are not finite or all zero.
    """
    features = _checked(features)
    values = torch.linalg.svdvals(features)
    if not values[0]:
        raise ValueError('all features are zero: they have no rank')
    return torch.special.entr(values / values.sum()).sum().exp().item()


def alpha_req(features: Tensor, ranks: tuple[int, int] | None = None) -> float:
    """Exponent of the power law of the features' eigenspectrum (Agrawal et al., α-ReQ, NeurIPS 2022).

    The i-th largest eigenvalue of the covariance of the features falls as i^-α: 0 if all directions are equally strong;
    above 1 a few directions dominate, much below 1 the tail carries as much as they do. The paper finds the best
    features near 1. Fitted by least squares on a log-log scale in which every octave of ranks has the same weight.

    Args:
        features: (N, D) float, one row for each image, N > D.
        ranks: first and last rank of the fit, from 1; the first ranks often leave the law. Default: 5 and 50, the last
            at most D // 2, since of the smallest eigenvalues much is noise.

    Raises:
        ValueError: if there are not more images than features, if the features are not finite, or constant, or span
            fewer dimensions than the last rank, or if there are fewer than three ranks to fit.
    """
    features = _checked(features)
    first, last = ranks or (5, min(50, features.shape[1] // 2))
    if not 1 <= first <= last - 2 or last > features.shape[1]:
        raise ValueError(
            f'ranks {first} … {last} of {features.shape[1]} features: a power law needs three ranks or more; choose '
            f'ranks=(FIRST, LAST) in 1 … {features.shape[1]}')
    eigenvalues = torch.linalg.eigvalsh(features.T.cov()).flip(0)
    rounding = torch.finfo(torch.float32).eps ** 2 * max(eigenvalues[0], features.square().mean())
    span = int((eigenvalues > rounding).sum())
    if span < last:
        raise ValueError(
            f'the features of {len(features)} images ' + (
                f'span only {span} dimensions: no power law up to rank {last}' if span else 'are all the same'))
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    weight = 1 / rank / (1 / rank).sum()
    x, y = rank.log(), eigenvalues[first - 1:last].log()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return -((weight * x * y).sum() / (weight * x * x).sum()).item()


def attention_distance(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean distance that the patches of an image look (Dosovitskiy et al., arXiv:2010.11929, appendix D.7).

    The distance from each query to the patches that it attends to, weighted by the attention, averaged over queries and
    images. Attention to other tokens (the class token, which has no place) is left out, and the rest adds up to 1.

    Args:
        weights: (N, heads, T, T) float, what each query (third) attends to (fourth); the patches are the last L of the
            T tokens.
        grid: rows and columns of the L patches.

    Returns:
        (heads,) float32, in patches (times the patch size: pixels): from 0 (to itself alone) to less than the diagonal.

    Raises:
        ValueError: if there are fewer tokens than patches, or no image.
    """
    rows, cols = grid
    count = rows * cols
    if weights.shape[-1] < count or not len(weights):
        raise ValueError(f'attention of shape {tuple(weights.shape)} does not cover {rows}x{cols} patches of images')
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).to(weights.device, torch.float32)
    to_patches = weights[..., -count:, -count:].float()
    return ((to_patches * torch.cdist(place, place)).sum(-1) / to_patches.sum(-1)).mean((0, 2))


def _checked(features: Tensor) -> Tensor:
    """Features as float64 on the CPU, if there are enough of them."""
    if features.ndim != 2 or len(features) <= features.shape[1]:
        raise ValueError(
            f'features of shape {tuple(features.shape)}, (images, features): it takes more images than features')
    features = features.detach().cpu().double()
    if not features.isfinite().all():
        raise ValueError('the features are not finite')
    return features
