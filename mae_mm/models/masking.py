"""Masks over a grid of patches, as pure functions of noise."""

import math
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
    """
    return _hide_after(noise.argsort(dim=1), count_visible(noise.shape[1], mask_ratio))


def block_masking(noise: Tensor, mask_ratio: float, grid: tuple[int, int], min_area: float = 16 / 196) -> PatchMask:
    """Mask rectangles until enough patches are hidden (BEiT, arXiv:2106.08254, algorithm 1; "block" in MAE, Table 1f).

    The patches, in the order of their scores, are the centres of the rectangles. The scores of the next two patches
    give a rectangle's area, uniform between `min_area` and what is still to be hidden, and the logarithm of its
    height / width, uniform between those of 0.3 and 1 / 0.3. The last rectangle is cut, row by row.
    Differs from the paper: BEiT may hide fewer patches than requested; here K is exact.
    `noise` (N, L) is uniform in [0, 1), `min_area` a fraction of the grid.
    """
    (rows, cols), num_patches = grid, noise.shape[1]
    num_visible = count_visible(num_patches, mask_ratio)
    position = torch.arange(num_patches, device=noise.device)
    row, col = position // cols, position % cols  # (L,)
    smallest = max(min_area * num_patches, 1.0)
    left = torch.full_like(noise[:, :1], num_patches - num_visible)  # (N, 1): patches still to be hidden
    mask = torch.zeros_like(noise, dtype=torch.bool)
    for centre in noise.argsort(dim=1).t().unsqueeze(-1):  # (N, 1); ends early, and after all L every patch is covered
        if not left.any():
            break
        area = smallest + noise.gather(1, (centre + 1) % num_patches) * (left - smallest).clamp_min(0)
        log_aspect = (2 * noise.gather(1, (centre + 2) % num_patches) - 1) * math.log(1 / 0.3)
        height = (area * log_aspect.exp()).sqrt().round().clamp(1, rows)
        width = (area / log_aspect.exp()).sqrt().round().clamp(1, cols)
        top = (row[centre] - (height - 1) / 2).round().clamp_min(0).minimum(rows - height)
        start = (col[centre] - (width - 1) / 2).round().clamp_min(0).minimum(cols - width)
        inside = (row >= top) & (row < top + height) & (col >= start) & (col < start + width)  # (N, L)
        fresh = inside & ~mask
        fresh &= fresh.cumsum(1) <= left
        mask |= fresh
        left -= fresh.sum(1, keepdim=True)
    return _hide_after(mask.int().argsort(dim=1, stable=True), num_visible)


def grid_masking(noise: Tensor, mask_ratio: float, grid: tuple[int, int]) -> PatchMask:
    """Keep one patch of each 2x2, the same one all over an image (MAE, Fig. 6, right; Table 1f).

    It is the one with the lowest score of `noise` (N, L) in the first 2x2. An odd last row or column is hidden:
    K = (rows // 2) * (columns // 2). `mask_ratio` must be 0.75.
    """
    rows, cols = grid
    if mask_ratio != 0.75 or min(grid) < 2:
        raise ValueError(
            f'grid masking keeps one patch of each 2x2: mask_ratio must be 0.75, got {mask_ratio}, and the grid 2x2 '
            f'patches or more, got {rows}x{cols}')
    # A list of indices would be copied to the GPU, which waits for it.
    corner = torch.stack([noise[:, i] for i in (0, 1, cols, cols + 1)], dim=1).argmin(dim=1, keepdim=True)  # (N, 1)
    position = torch.arange(rows * cols, device=noise.device)
    row, col = position // cols, position % cols  # (L,)
    whole = (row < rows // 2 * 2) & (col < cols // 2 * 2)
    visible = (row % 2 * 2 + col % 2 == corner) & whole  # (N, L)
    return _hide_after((~visible).int().argsort(dim=1, stable=True), (rows // 2) * (cols // 2))


SAMPLERS = {  # all take noise, ratio and grid
    'random': lambda noise, mask_ratio, grid: random_masking(noise, mask_ratio),
    'block': block_masking,
    'grid': grid_masking,
}


def count_visible(num_patches: int, mask_ratio: float) -> int:
    """K = int(L * (1 - mask_ratio))."""
    num_visible = int(num_patches * (1 - mask_ratio)) if 0 <= mask_ratio < 1 else 0
    if not num_visible:
        raise ValueError(
            f'mask_ratio={mask_ratio} must be in [0, 1) and leave one of {num_patches} patches visible, e.g. 0.75; '
            'lower it, or use a larger image or a smaller patch')
    return num_visible


def _hide_after(ids_shuffle: Tensor, num_visible: int) -> PatchMask:
    """The first K of each row of (N, L) positions stay visible."""
    ids_restore = ids_shuffle.argsort(dim=1)
    return PatchMask(ids_shuffle[:, :num_visible], ids_restore, ids_restore >= num_visible)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens by position, none twice: (N, L, D) and (N, K) int64, different in each row -> (N, K, D)."""
    return _Take.apply(tokens, ids)


class _Take(torch.autograd.Function):
    """`gather`, whose own gradient adds up where a token was picked twice: slow on a GPU, and in no fixed order."""

    @staticmethod
    def forward(ctx, tokens: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_tokens = tokens.shape[1]
        return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        ids, = ctx.saved_tensors
        n, _, width = grad.shape
        index = ids.unsqueeze(-1).expand(-1, -1, width)
        return grad.new_zeros(n, ctx.num_tokens, width).scatter(1, index, grad), None


def fixed_noise(sample_idx: list[int], num_patches: int, seed: int = 0) -> Tensor:
    """Noise that depends on the numbers of N images in their data set and a seed alone, so held-out masks never change.

    (N, L) float32 on the CPU, uniform in [0, 1), each row the same whatever else is in the batch.
    """
    generator = torch.Generator()
    # torch's CPU generator reads the low 32 bits of a seed only.
    seeds = [(seed * 1_000_003 + index) % 2**32 for index in sample_idx]
    return torch.stack([torch.rand(num_patches, generator=generator.manual_seed(s)) for s in seeds])
