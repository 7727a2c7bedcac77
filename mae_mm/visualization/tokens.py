"""What the tokens of an encoder show: principal components, attention, and which patches resemble one another."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.pca import fit_pca

QUERIES = 256  # queries whose attention is in memory at a time
MIN_DIMS = 16  # fewer numbers for each token do not tell tokens apart


def pca_colours(tokens: Tensor) -> tuple[np.ndarray, list[float]]:
    """The first three principal components of all tokens as red, green and blue: one basis for all images.

    Each runs from the 1st percentile (0) to the 99th (255) of all tokens, so that a few extreme ones do not decide.
    (N, L, D) -> (N, L, 3) uint8, and the share of the variance that each component explains.
    """
    flat = tokens.flatten(0, 1).float().cpu()
    pca = fit_pca(flat)
    axes = pca['components'][:3]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # whose sign is arbitrary
    values = (flat - pca['mean']) @ axes.T
    low, high = np.quantile(values.numpy(), (0.01, 0.99), axis=0)
    span = high - low
    scaled = (values.numpy() - low) / np.maximum(span, 1e-2 * span.max() + 1e-12)  # no colours from rounding errors
    shares = pca['variances'][:3] / pca['variances'].sum().clamp_min(1e-12)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8).reshape(*tokens.shape[:2], 3), shares.tolist()


@torch.no_grad()
def attention_maps(encoder: Encoder, imgs: Tensor, block: int) -> Tensor:
    """How much attention each patch gets in a block: (N, C, H, W) uint8 -> (N, heads, L) float32.

    From the class token or, in encoders with windows, which have none, from the patches, in the mean. What is missing
    to a sum of one is the class token's attention to itself.

    Raises:
        ValueError: if tokens of this block attend in windows only.
    """
    vit, maps = encoder.backbone, []
    if block not in vit.global_blocks:
        raise ValueError(
            f'block {block} attends in windows of {vit.window_size}x{vit.window_size} tokens, not to the whole image; '
            f'choose one of {", ".join(map(str, sorted(vit.global_blocks)))}')

    def record(attn: torch.nn.Module, args: tuple[Tensor], kwargs: dict) -> None:
        x, grid = args[0], kwargs.get('grid')
        if encoder.num_prefix:
            maps.append(attn.weights(x, grid, slice(0, 1))[:, :, 0, 1:])
        else:
            parts = [attn.weights(x, grid, slice(i, i + QUERIES)).sum(2) for i in range(0, x.shape[1], QUERIES)]
            maps.append(sum(parts) / x.shape[1])

    hook = vit.blocks[block].attn.register_forward_pre_hook(record, with_kwargs=True)
    try:
        encoder.tokens(imgs, [block])
    finally:
        hook.remove()
    return torch.cat(maps).cpu()


def unit_tokens(tokens: Tensor) -> Tensor:
    """Directions of tokens (N, L, D) from the mean of all, float32; what all have in common would make all alike."""
    tokens = tokens.float().cpu()
    return F.normalize(tokens - tokens.mean((0, 1)), dim=-1)


def similarities(tokens: Tensor, image: int, patch: int) -> Tensor:
    """Cosine similarity of every token to one of them, without their mean: (N, L, D) -> (N, L) float32."""
    unit = unit_tokens(tokens)
    return unit @ unit[image, patch]


def compress(tokens: Tensor, max_bytes: int) -> tuple[np.ndarray, float] | None:
    """`unit_tokens` for a page that compares them, in at most `max_bytes`; their lengths are lost.

    Where D numbers for each token are too many, the leading principal directions are kept. (N, L, D) -> (N, L, d) int8,
    and the share of the squared length that is kept; None if d would be less than 16.
    """
    unit = unit_tokens(tokens)
    dims = min(unit.shape[-1], max_bytes // math.prod(unit.shape[:2]))
    if dims < min(MIN_DIMS, unit.shape[-1]):
        return None
    kept = unit
    if dims < unit.shape[-1]:
        flat = unit.flatten(0, 1).double()
        kept = (flat @ torch.linalg.eigh(flat.T @ flat)[1][:, -dims:]).float().view(*unit.shape[:2], dims)
    scale = 127 / kept.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    return (kept * scale).round().to(torch.int8).numpy(), (kept.square().sum() / unit.square().sum()).item()
