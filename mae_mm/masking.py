"""Masks over a grid of patches, as pure functions of noise."""

from typing import NamedTuple

import torch
from torch import Tensor


class PatchMask(NamedTuple):
    """N masks over a grid of L patches, of which the encoder sees K."""

    ids_keep: Tensor  # (N, K) int64: position of each visible patch
    ids_restore: Tensor  # (N, L) int64: index that undoes the shuffle
    mask: Tensor  # (N, L) bool: True = masked


def random_masking(noise: Tensor, mask_ratio: float) -> PatchMask:
    """Mask each image independently and uniformly (MAE, arXiv:2111.06377, section 3).

    Args:
        noise: (N, L) float, one score per patch; the K lowest stay visible.
        mask_ratio: fraction of patches removed, in [0, 1); K = int(L * (1 - mask_ratio)).

    Raises:
        ValueError: if the ratio lies outside [0, 1) or no patch would stay visible.
    """
    num_patches = noise.shape[1]
    if not 0 <= mask_ratio < 1:
        raise ValueError(f'mask_ratio={mask_ratio} is not in [0, 1): it is the fraction of patches hidden, e.g. 0.75')
    num_visible = int(num_patches * (1 - mask_ratio))
    if num_visible == 0:
        raise ValueError(
            f'mask_ratio={mask_ratio} leaves none of {num_patches} patches visible; lower it, '
            'or make the image larger or the patch smaller')
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    return PatchMask(ids_shuffle[:, :num_visible], ids_restore, ids_restore >= num_visible)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens by position: (N, L, D) and (N, K) int64 -> (N, K, D)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def fixed_noise(sample_idx: list[int], num_patches: int, seed: int = 0) -> Tensor:
    """Noise that depends on nothing but an image's number and a seed, so held-out masks never change.

    Args:
        sample_idx: N numbers of images in their data set.
        num_patches: L.
        seed: of this family of masks.

    Returns:
        (N, L) float32 on the CPU, uniform in [0, 1), each row the same whatever else is in the batch.
    """
    generator = torch.Generator()
    # torch's CPU generator reads the low 32 bits of a seed only.
    seeds = [(seed * 1_000_003 + index) % 2**32 for index in sample_idx]
    return torch.stack([torch.rand(num_patches, generator=generator.manual_seed(s)) for s in seeds])
