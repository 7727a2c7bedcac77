"""Attention with decomposed relative positions on a CPU, in float32: scores exist for a piece at a time only.

A GPU's fused kernels take extra channels almost for nothing (`rel_pos.extend_with_axes`); a CPU pays for each of them,
in time and in what is kept for the backward pass. Here the two terms are added to the scores of a piece, which the
backward pass computes again, as fused attention does (FlashAttention, arXiv:2205.14135).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mae_mm.rel_pos import axis_scores

PIECE = 1 << 20  # scores at a time: 4 MB, which caches hold


def attend_by_axes(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor], scale: float,
    real: Tensor | None = None,
) -> Tensor:
    """Attention with decomposed relative positions (as of `rel_pos.extend_with_axes`), without a bias of L x L.

    Args:
        q, k, v: (N, heads, L, d).
        grid, tables, scale: as of `rel_pos.extend_with_axes`.
        real: (N, 1, 1, L) bool, False = a key not to be seen; those must be whole rows and columns of the grid.

    Returns:
        (N, heads, L, d).
    """
    scores = list(axis_scores(q, grid, tables))
    if real is not None:
        for axis in (0, 1):
            hidden = ~real.unflatten(-1, grid).any(-1 - axis)  # (N, 1, 1, rows), then (N, 1, 1, cols)
            scores[axis] = scores[axis].masked_fill(hidden, -torch.inf)
    parts = (x.flatten(0, 1).contiguous() for x in (q, k, v, *scores))
    return _AttendByAxes.apply(*parts, scale).view_as(q)


class _AttendByAxes(torch.autograd.Function):

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
        out, norms = torch.empty_like(q), q.new_empty(q.shape[:2])
        for heads, queries in _pieces(q):
            scores = _scores(q[heads, queries], k[heads], rows[heads, queries], cols[heads, queries], scale)
            norm = scores.logsumexp(-1)
            out[heads, queries] = scores.sub_(norm[..., None]).exp_() @ v[heads]
            norms[heads, queries] = norm
        ctx.save_for_backward(q, k, v, rows, cols, out, norms)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rows, cols, out, norms = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.zeros_like(x) for x in (q, k, v, rows, cols)]
        grad_q, grad_k, grad_v, grad_rows, grad_cols = grads
        delta = (grad * out).sum(-1, keepdim=True)
        for heads, queries in _pieces(q):
            weights = _scores(q[heads, queries], k[heads], rows[heads, queries], cols[heads, queries], ctx.scale)
            weights.sub_(norms[heads, queries][..., None]).exp_()
            grad_v[heads] += weights.transpose(1, 2) @ grad[heads, queries]
            grad_scores = (grad[heads, queries] @ v[heads].transpose(1, 2)).sub_(delta[heads, queries]).mul_(weights)
            by_axes = grad_scores.unflatten(-1, (rows.shape[-1], cols.shape[-1]))
            grad_rows[heads, queries], grad_cols[heads, queries] = by_axes.sum(-1), by_axes.sum(-2)
            grad_q[heads, queries] = (grad_scores @ k[heads]).mul_(ctx.scale)
            grad_k[heads] += (grad_scores.transpose(1, 2) @ q[heads, queries]).mul_(ctx.scale)
        return *grads, None


def _scores(q: Tensor, k: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
    """(B, Q, L) of a piece, to be changed in place."""
    scores = (q * scale) @ k.transpose(1, 2)
    scores.unflatten(-1, (rows.shape[-1], cols.shape[-1])).add_(rows[..., None]).add_(cols[..., None, :])
    return scores


def _pieces(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of pieces with about `PIECE` scores: several heads at a time, or a part of one."""
    heads, length, _ = q.shape
    some = max(1, PIECE // length**2)
    part = length if some > 1 else max(1, PIECE // length)
    for first in range(0, heads, some):
        for start in range(0, length, part):
            yield slice(first, first + some), slice(start, start + part)
