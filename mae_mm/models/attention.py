"""timm's transformer block with an attention that picks the faster kernel."""

from functools import partial

import timm.layers
import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_mm.models.axis_attention import attend_by_axes
from mae_mm.models.rel_pos import extend_with_axes, offset_bias
from mae_mm.models.windows import from_windows, to_windows

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # the eps of every published ViT


class Attention(timm.layers.Attention):
    """timm's multi-head self-attention; parameters, names and results are timm's.

    `add_axis_tables` or `add_offset_tables` give it relative positions, which start as zeros: the same results.
    """

    def add_axis_tables(self, grid: tuple[int, int]) -> None:
        """Decomposed relative positions for a grid of tokens without class token (`rel_pos.extend_with_axes`)."""
        self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * side - 1, self.head_dim)) for side in grid)

    def add_offset_tables(self, grid: tuple[int, int]) -> None:
        """A bias for each offset in a grid of tokens behind a class token (`rel_pos.offset_bias`)."""
        self.rel_pos_bias = nn.Parameter(torch.zeros(self.num_heads, *(2 * side - 1 for side in grid)))
        self.rel_pos_class_bias = nn.Parameter(torch.zeros(self.num_heads, 3))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
        grid: tuple[int, int] | None = None, window_size: int = 0,
    ) -> Tensor:
        """Attend.

        Args:
            x: (N, T, D).
            attn_mask: added to the scores or, if bool, False hides a key; broadcast to (N, heads, T, T).
            is_causal: as in timm.
            grid: rows and columns of the patch tokens, which windows and relative positions need.
            window_size: side in tokens of the windows in which each token attends; 0: to all. Takes no `attn_mask`.

        Returns:
            (N, T, D).
        """
        qkv = self.qkv(x)
        if window_size and torch.is_grad_enabled():  # little work, but three copies that the backward pass would keep
            x = checkpoint(
                self._attend_in_windows, qkv, grid, window_size, use_reentrant=False, preserve_rng_state=False)
        elif window_size:
            x = self._attend_in_windows(qkv, grid, window_size)
        else:
            x = self._attend(qkv, attn_mask, is_causal, grid)
        return self.proj(x)

    def _attend_in_windows(self, qkv: Tensor, grid: tuple[int, int], size: int) -> Tensor:
        """(N, L, 3 D) -> (N, L, D). Here, not around the block, filling costs neither MLP nor projections."""
        windows, real = to_windows(qkv, grid, size)
        return from_windows(self._attend(windows, real, False, (size, size)), grid, size)

    def _attend(self, qkv: Tensor, attn_mask: Tensor | None, is_causal: bool, grid: tuple[int, int] | None) -> Tensor:
        """(N, T, 3 D) -> (N, T, D)."""
        n, num_tokens, _ = qkv.shape
        qkv = qkv.view(n, num_tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, D / heads)
        scale = self.scale
        if hasattr(self, 'rel_pos_h') and pieces_are_faster(q):
            x = attend_by_axes(q, k, v, grid, (self.rel_pos_h, self.rel_pos_w), scale, attn_mask)
            return x.transpose(1, 2).reshape(n, num_tokens, -1)
        if hasattr(self, 'rel_pos_h'):
            q, k = extend_with_axes(q, k, grid, (self.rel_pos_h, self.rel_pos_w), scale)
            v, scale = F.pad(v, (0, q.shape[-1] - self.head_dim)), 1.0  # fused kernels want one width
        elif hasattr(self, 'rel_pos_bias'):
            attn_mask = offset_bias(self.rel_pos_bias, self.rel_pos_class_bias, grid).to(q.dtype)
        if attn_mask is None and not is_causal and plain_is_faster(q):
            x = ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale)
        return x[..., :self.head_dim].transpose(1, 2).reshape(n, num_tokens, -1)


def plain_is_faster(q: Tensor) -> bool:
    """Whether matmul, softmax, matmul beats the fused kernel: torch's is slow backwards in bfloat16 on the CPU.

    Only for short sequences, where the T x T scores are small.
    """
    return q.device.type == 'cpu' and q.dtype == torch.bfloat16 and q.shape[-2] <= 256 and torch.is_grad_enabled()


def pieces_are_faster(q: Tensor) -> bool:
    """Whether `attend_by_axes` beats a fused kernel with extra channels: on a CPU, in the precision that it has."""
    return q.device.type == 'cpu' and q.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')


class Block(vision_transformer.Block):
    """timm's pre-norm transformer block as ViT uses it: biases in qkv, LayerNorm with eps 1e-6."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=LayerNorm)
        self.attn = Attention(dim, num_heads, qkv_bias=True)

    def forward(self, x: Tensor, **how: object) -> Tensor:
        """Any tokens, (N, T, D) -> (N, T, D); keywords as of `Attention.forward`."""
        x = x + self.drop_path1(self.attn(self.norm1(x), **how))
        return x + self.drop_path2(self.mlp(self.norm2(x)))
