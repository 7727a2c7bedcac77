"""timm's transformer block with attention in windows, relative positions, and the faster kernel."""

from functools import partial

import timm.layers
import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_mm.models.positions import extend_with_axes, offset_bias

try:
    from mae_mm.models.short_attention import attend_short
except ImportError:  # no Triton: torch for CPUs only, or another system than Linux
    attend_short = None

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # the eps of every published ViT


class Attention(timm.layers.Attention):
    """timm's multi-head self-attention; parameters, names and results are timm's.

    `add_axis_tables` or `add_offset_tables` give it relative positions, which start as zeros: the same results.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads, qkv_bias=True)
        for name in ('rel_pos_h', 'rel_pos_w', 'rel_pos_bias', 'rel_pos_class_bias'):
            self.register_parameter(name, None)
        # Hopper, where the kernel was measured to be faster than torch's; read here, not in compiled code.
        self.has_short_kernel = (
            attend_short is not None and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9)

    def add_axis_tables(self, grid: tuple[int, int]) -> None:
        """Decomposed relative positions for a grid of tokens without class token (`positions.axis_scores`)."""
        self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * side - 1, self.head_dim)) for side in grid)

    def add_offset_tables(self, grid: tuple[int, int]) -> None:
        """A bias for each offset in a grid of tokens behind a class token (`positions.offset_bias`)."""
        self.rel_pos_bias = nn.Parameter(torch.zeros(self.num_heads, *(2 * side - 1 for side in grid)))
        self.rel_pos_class_bias = nn.Parameter(torch.zeros(self.num_heads, 3))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
        grid: tuple[int, int] | None = None, window_size: int = 0,
    ) -> Tensor:
        """Attend: (N, T, D) -> (N, T, D).

        Windows and relative positions need `grid`, the rows and columns of the patch tokens. `window_size`: side in
        tokens of the windows in which each token attends, without `attn_mask`; 0: to all.
        """
        qkv = self.qkv(x)
        if window_size and torch.is_grad_enabled():  # recomputed: the backward pass would keep three cheap copies
            x = checkpoint(
                self._attend_in_windows, qkv, grid, window_size, use_reentrant=False, preserve_rng_state=False)
        elif window_size:
            x = self._attend_in_windows(qkv, grid, window_size)
        else:
            x = self._attend(qkv, attn_mask, is_causal, grid)
        return self.proj(x)

    def weights(self, x: Tensor, grid: tuple[int, int] | None = None, queries: slice = slice(None)) -> Tensor:
        """How much each query attends to each token, without windows: (N, T, D) -> (N, heads, Q, T) float32.

        Rows sum to one. `queries` selects Q of the T tokens: all of them take heads * T * T numbers an image.
        """
        n, num_tokens, _ = x.shape
        q, k, _ = self.qkv(x).view(n, num_tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, scale, bias = self._with_positions(q, k, grid)
        scores = (q[:, :, queries] * scale) @ k.transpose(-2, -1)
        return (scores if bias is None else scores + bias[:, queries]).float().softmax(dim=-1)

    def _attend_in_windows(self, qkv: Tensor, grid: tuple[int, int], size: int) -> Tensor:
        """(N, L, 3 D) -> (N, L, D). Padding here, not around the block, costs neither MLP nor projections."""
        windows = to_windows(qkv, grid, size, self.qkv.bias)
        return from_windows(self._attend(windows, None, False, (size, size)), grid, size)

    def _attend(self, qkv: Tensor, attn_mask: Tensor | None, is_causal: bool, grid: tuple[int, int] | None) -> Tensor:
        """(N, T, 3 D) -> (N, T, D)."""
        n, num_tokens, _ = qkv.shape
        qkv = qkv.view(n, num_tokens, 3, self.num_heads, self.head_dim)
        plain = attn_mask is None and not is_causal and self.rel_pos_h is None and self.rel_pos_bias is None
        if plain and self.has_short_kernel and fits_on_chip(qkv):
            return attend_short(qkv, self.scale).flatten(2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, D / heads)
        q, k, scale, bias = self._with_positions(q, k, grid)
        if self.rel_pos_h is not None:
            v = F.pad(v, (0, q.shape[-1] - self.head_dim))  # fused kernels want one width
        x = attend(q, k, v, scale, attn_mask if bias is None else bias, is_causal)
        return x[..., :self.head_dim].transpose(1, 2).reshape(n, num_tokens, -1)

    def _with_positions(
        self, q: Tensor, k: Tensor, grid: tuple[int, int] | None,
    ) -> tuple[Tensor, Tensor, float, Tensor | None]:
        """Queries, keys, scale and bias: their product times the scale, plus the bias, are the scores."""
        if self.rel_pos_h is not None:
            return *extend_with_axes(q, k, grid, (self.rel_pos_h, self.rel_pos_w), self.scale), 1.0, None
        if self.rel_pos_bias is not None:
            return q, k, self.scale, offset_bias(self.rel_pos_bias, self.rel_pos_class_bias, grid).to(q.dtype)
        return q, k, self.scale, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, attn_mask: Tensor | None = None, is_causal: bool = False,
) -> Tensor:
    """Attention of (N, heads, T, d) queries by the faster kernel."""
    if attn_mask is None and not is_causal and plain_is_faster(q):
        return ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale)


def plain_is_faster(q: Tensor) -> bool:
    """Whether the T x T scores of short sequences beat the fused kernel: slow backwards in bfloat16 on the CPU."""
    return q.device.type == 'cpu' and q.dtype == torch.bfloat16 and q.shape[-2] <= 256 and torch.is_grad_enabled()


def fits_on_chip(qkv: Tensor) -> bool:
    """Whether `attend_short` is faster than torch's kernels: few tokens (N, T, 3, heads, d), and narrow heads."""
    _, num_tokens, _, _, width = qkv.shape
    small = width in (16, 32, 64) and num_tokens <= (64 if width == 64 else 256)
    return small and qkv.device.type == 'cuda' and qkv.dtype == torch.bfloat16


def to_windows(tokens: Tensor, grid: tuple[int, int], size: int, fill: Tensor) -> Tensor:
    """Cut a grid of tokens into windows (ViTDet, arXiv:2203.16527, section 3), padding the last row and column of them.

    In ViTDet's release the inputs of attention are padded with zeros, and padding is attended to: what the projection
    makes of a zero is its bias, the `fill` (D,) of projected tokens.
    (N, L, D), row-major -> (N * W, size * size, D) with W windows an image, row-major.
    """
    rows, cols = grid
    down, across = -(-rows // size), -(-cols // size)  # windows in a column, in a row
    x = tokens.view(tokens.shape[0], rows, cols, -1)
    if rows % size or cols % size:
        padded = fill.to(x.dtype).expand(x.shape[0], down * size, across * size, -1).clone()
        padded[:, :rows, :cols] = x
        x = padded
    return x.view(x.shape[0], down, size, across, size, -1).transpose(2, 3).reshape(-1, size * size, x.shape[-1])


def from_windows(windows: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Inverse of `to_windows`: (N * W, size * size, D) -> (N, L, D), without the padding."""
    rows, cols = grid
    down, across = -(-rows // size), -(-cols // size)
    x = windows.view(-1, down, across, size, size, windows.shape[-1]).transpose(2, 3)
    return x.reshape(x.shape[0], down * size, across * size, -1)[:, :rows, :cols].flatten(1, 2)


class DropPath(timm.layers.DropPath):
    """timm's stochastic depth, with the same random numbers; under `torch.compile` its rate is a tensor.

    A number would be compiled in, so that each block of a stack, whose rates differ, would be compiled on its own.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__(drop_prob)
        self.register_buffer('rate', torch.tensor(drop_prob), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class Block(vision_transformer.Block):
    """timm's pre-norm transformer block as ViT uses it: biases in qkv, LayerNorm with eps 1e-6.

    `drop_path`, the rate of stochastic depth: None leaves it out, 0 is for the first block of a stack that has it.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float | None = None) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)
        self.attn = Attention(dim, num_heads)
        if drop_path is not None:
            self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor, **how: object) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), **how))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def init_vit_weights(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero biases, unit norms, as in MAE's release (appendix A.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
