"""Attention of short sequences on a GPU as one Triton kernel each way: all keys of a head fit on the chip.

Flash kernels are made for long sequences: of 197 tokens with 32 channels a head (MAE's decoder), or of 50 with 64 (its
encoder), they leave most of a tile empty, and want queries, keys and values apart. These kernels read them where the
projection wrote them, and write the gradient as its backward pass wants it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64  # queries at a time


def attend_short(qkv: Tensor, scale: float) -> Tensor:
    """Softmax attention: (N, T, 3, heads, d) bfloat16 or float16, T <= 256, d 16, 32 or 64 -> (N, T, heads, d)."""
    return _attend(qkv, scale)[0]


# Opaque to torch.compile, which knows their shapes.
@torch.library.custom_op('mae_mm::attend_short', mutates_args=())
def _attend(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(N, T, heads, d), and the logarithm (base 2) of each query's softmax sum, (N, heads, T) float32."""
    qkv = qkv.contiguous()
    n, num_tokens, _, heads, width = qkv.shape
    out, norms = _like(qkv)
    size = max(64, triton.next_power_of_2(num_tokens))
    _forward[(n * heads,)](qkv, out, norms, scale, heads, num_tokens, size, ROWS, width, num_warps=4, num_stages=1)
    return out, norms


@torch.library.custom_op('mae_mm::attend_short_backward', mutates_args=())
def _attend_backward(grad: Tensor, qkv: Tensor, out: Tensor, norms: Tensor, scale: float) -> Tensor:
    """Gradient of `qkv` from that of `out`."""
    qkv = qkv.contiguous()
    n, num_tokens, _, heads, width = qkv.shape
    grad_qkv = torch.empty_like(qkv)
    size = max(64, triton.next_power_of_2(num_tokens))
    _backward[(n * heads,)](
        qkv, out, norms, grad.contiguous(), grad_qkv, scale, heads, num_tokens, size, ROWS, width,
        num_warps=8 if size > 128 else 4, num_stages=1)
    return grad_qkv


@_attend.register_fake
def _like(qkv: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    n, num_tokens, _, heads, width = qkv.shape
    return qkv.new_empty(n, num_tokens, heads, width), qkv.new_empty(n, heads, num_tokens, dtype=torch.float32)


@_attend_backward.register_fake
def _(grad: Tensor, qkv: Tensor, out: Tensor, norms: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.scale = inputs[1]


def _differentiate(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _attend_backward(grad, *ctx.saved_tensors, ctx.scale), None


_attend.register_autograd(_differentiate, setup_context=_keep)


@triton.jit
def _forward(
    qkv, out, norms, scale, heads: tl.constexpr, num_tokens: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    head = tl.program_id(0) % heads
    image = (tl.program_id(0) // heads).to(tl.int64)
    dim = heads * WIDTH
    qkv += image * num_tokens * 3 * dim + head * WIDTH
    out += image * num_tokens * dim + head * WIDTH
    norms += tl.program_id(0).to(tl.int64) * num_tokens
    channels = tl.arange(0, WIDTH)
    keys = tl.arange(0, SIZE)
    real = keys < num_tokens
    places = keys[:, None] * 3 * dim + channels[None, :]
    k = tl.load(qkv + dim + places, mask=real[:, None], other=0.0)
    v = tl.load(qkv + 2 * dim + places, mask=real[:, None], other=0.0)
    for start in range(0, num_tokens, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < num_tokens)[:, None]
        q = tl.load(qkv + rows[:, None] * 3 * dim + channels[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)  # powers of 2 are cheaper than of e
        scores = tl.where(real[None, :], scores, float('-inf'))
        highest = tl.max(scores, 1)
        weights = tl.exp2(scores - highest[:, None])
        total = tl.sum(weights, 1)
        answer = tl.dot(weights.to(v.dtype), v) / total[:, None]
        tl.store(out + rows[:, None] * dim + channels[None, :], answer.to(v.dtype), mask=inside)
        tl.store(norms + rows, highest + tl.log2(total), mask=rows < num_tokens)


@triton.jit
def _backward(
    qkv, out, norms, grad, grad_qkv, scale, heads: tl.constexpr, num_tokens: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    head = tl.program_id(0) % heads
    image = (tl.program_id(0) // heads).to(tl.int64)
    dim = heads * WIDTH
    qkv += image * num_tokens * 3 * dim + head * WIDTH
    grad_qkv += image * num_tokens * 3 * dim + head * WIDTH
    out += image * num_tokens * dim + head * WIDTH
    grad += image * num_tokens * dim + head * WIDTH
    norms += tl.program_id(0).to(tl.int64) * num_tokens
    channels = tl.arange(0, WIDTH)
    keys = tl.arange(0, SIZE)
    real = keys < num_tokens
    places = keys[:, None] * 3 * dim + channels[None, :]
    k = tl.load(qkv + dim + places, mask=real[:, None], other=0.0)
    v = tl.load(qkv + 2 * dim + places, mask=real[:, None], other=0.0)
    grad_k = tl.zeros((SIZE, WIDTH), tl.float32)
    grad_v = tl.zeros((SIZE, WIDTH), tl.float32)
    for start in range(0, num_tokens, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = rows < num_tokens
        q = tl.load(qkv + rows[:, None] * 3 * dim + channels[None, :], mask=inside[:, None], other=0.0)
        here = rows[:, None] * dim + channels[None, :]
        g = tl.load(grad + here, mask=inside[:, None], other=0.0)
        o = tl.load(out + here, mask=inside[:, None], other=0.0)
        delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        norm = tl.load(norms + rows, mask=inside, other=0.0)
        # Keys along the rows: both products below then take their left side as it is.
        scores = tl.dot(k, tl.trans(q)) * (scale * 1.4426950408889634)
        weights = tl.where(real[:, None] & inside[None, :], tl.exp2(scores - norm[None, :]), 0.0)  # (SIZE, ROWS)
        grad_v += tl.dot(weights.to(g.dtype), g)
        grad_scores = (weights * (tl.dot(v, tl.trans(g)) - delta[None, :])).to(q.dtype)
        grad_k += tl.dot(grad_scores, q)
        grad_q = tl.dot(tl.trans(grad_scores), k) * scale
        tl.store(grad_qkv + rows[:, None] * 3 * dim + channels[None, :], grad_q.to(q.dtype), mask=inside[:, None])
    tl.store(grad_qkv + dim + places, (grad_k * scale).to(k.dtype), mask=real[:, None])
    tl.store(grad_qkv + 2 * dim + places, grad_v.to(v.dtype), mask=real[:, None])
