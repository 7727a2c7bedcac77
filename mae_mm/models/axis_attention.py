"""Attention with decomposed relative positions on a CPU, in float32: scores exist for a piece at a time only.

A GPU's fused kernels take extra channels almost for nothing (`rel_pos.extend_with_axes`); a CPU pays for each of them,
in time and in what is kept for the backward pass. Here the two terms are added to the scores of a piece, which the
backward pass computes again, as fused attention does (FlashAttention, arXiv:2205.14135).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mae_mm.models.rel_pos import axis_scores

PIECE = 1 << 20  # scores at a time: 4 MB, which caches hold


def attend_by_axes(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor], scale: float,
    real: Tensor | None = None,
) -> Tensor:
    """Attention with decomposed relative positions, without a bias of L x L.

    Args:
        q, k, v: (N, heads, L, d).
        grid, tables, scale: as of `rel_pos.extend_with_axes`.
        real: (N, 1, 1, L) bool, False = a key not to be seen; those must be whole rows and columns of the grid.

    Returns:
        (N, heads, L, d), each token's heads side by side in memory: kept once, for this and for what follows.
    """
    return _AttendByAxes.apply(q, k, v, *tables, grid, scale, real)


class _AttendByAxes(torch.autograd.Function):

    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, row_table: Tensor, col_table: Tensor, grid: tuple[int, int],
        scale: float, real: Tensor | None,
    ) -> Tensor:
        n, num_heads, length, width = q.shape
        out = q.new_empty(n, length, num_heads, width).transpose(1, 2)
        norms = q.new_empty(n, num_heads, length)
        for heads in _heads(q):
            some_q, some_k, some_v = (x[heads].contiguous() for x in (q, k, v))
            axes = _hide(axis_scores(some_q[None], grid, (row_table, col_table)), real, heads, grid)
            for queries in _queries(some_q):
                scores = _scores(some_q[:, queries], some_k, axes, queries, scale)
                norm = scores.logsumexp(-1)
                out[heads][:, queries] = scores.sub_(norm[..., None]).exp_() @ some_v
                norms[heads][:, queries] = norm
        ctx.save_for_backward(q, k, v, row_table, col_table, real, out, norms)
        ctx.grid, ctx.scale = grid, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *tables, real, out, norms = ctx.saved_tensors
        grad_q, grad_k, grad_v = grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        grad_tables = [torch.zeros_like(table) for table in tables]
        for heads in _heads(q):
            some_q, some_k, some_v, some_grad = (x[heads].contiguous() for x in (q, k, v, grad))
            with torch.enable_grad():  # what the axes add is computed again, rather than kept
                inputs = [x.detach().requires_grad_() for x in (some_q[None], *tables)]
                added = axis_scores(inputs[0], ctx.grid, inputs[1:])
            axes = _hide([x.detach() for x in added], real, heads, ctx.grid)
            grad_axes = [torch.empty_like(x) for x in axes]
            delta = (some_grad * out[heads]).sum(-1, keepdim=True)
            for queries in _queries(some_q):
                weights = _scores(some_q[:, queries], some_k, axes, queries, ctx.scale)
                weights.sub_(norms[heads][:, queries, None]).exp_()
                grad_v[heads] += weights.transpose(1, 2) @ some_grad[:, queries]
                grad_scores = some_grad[:, queries] @ some_v.transpose(1, 2)
                grad_scores.sub_(delta[:, queries]).mul_(weights)
                by_axes = grad_scores.unflatten(-1, ctx.grid)
                for grad_axis, dim in zip(grad_axes, (-1, -2), strict=True):
                    grad_axis[0, :, queries] = by_axes.sum(dim)
                grad_q[heads][:, queries] = (grad_scores @ some_k).mul_(ctx.scale)
                grad_k[heads] += (grad_scores.transpose(1, 2) @ some_q[:, queries]).mul_(ctx.scale)
            through_axes = torch.autograd.grad(added, inputs, grad_axes)
            for total, more in zip((grad_q[heads], *grad_tables), through_axes, strict=True):
                total += more.view_as(total)
        return *grads, *grad_tables, None, None, None


def _heads(q: Tensor) -> Iterator[tuple[int, slice]]:
    """Image and heads whose scores make about a piece; one head, if its scores are more than that."""
    n, num_heads, length, _ = q.shape
    some = max(1, PIECE // length**2)
    for image in range(n):
        for first in range(0, num_heads, some):
            yield image, slice(first, first + some)


def _queries(q: Tensor) -> Iterator[slice]:
    """Queries of (B, L, d) whose scores make about a piece."""
    heads, length, _ = q.shape
    part = max(1, PIECE // (heads * length))
    for start in range(0, length, part):
        yield slice(start, start + part)


def _hide(axes: Sequence[Tensor], real: Tensor | None, heads: tuple[int, slice], grid: tuple[int, int]) -> list[Tensor]:
    """Minus infinity for the rows and columns of an image's keys that are not to be seen."""
    if real is None:
        return list(axes)
    seen = real[heads[0]].view(grid)
    return [scores.masked_fill(~seen.any(dim), -torch.inf) for scores, dim in zip(axes, (1, 0), strict=True)]


def _scores(q: Tensor, k: Tensor, axes: list[Tensor], queries: slice, scale: float) -> Tensor:
    """(B, Q, L) of some queries, to be changed in place."""
    rows, cols = (scores[0, :, queries] for scores in axes)
    scores = (q * scale) @ k.transpose(1, 2)
    scores.unflatten(-1, (rows.shape[-1], cols.shape[-1])).add_(rows[..., None]).add_(cols[..., None, :])
    return scores
