"""timm's transformer block with an attention that picks the faster kernel."""

from functools import partial

import timm.layers
import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # the eps of every published ViT


class Attention(timm.layers.Attention):
    """timm's multi-head self-attention; parameters, names and results are timm's."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(N, T, D) -> (N, T, D); `attn_mask` is added to the scores or, if bool, False hides a key."""
        n, num_tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, num_tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, D / heads)
        if attn_mask is None and not is_causal and plain_is_faster(q):
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return self.proj(x.transpose(1, 2).reshape(n, num_tokens, -1))


def plain_is_faster(q: Tensor) -> bool:
    """Whether matmul, softmax, matmul beats the fused kernel: torch's is slow backwards in bfloat16 on the CPU.

    Only for short sequences, where the T x T scores are small.
    """
    return q.device.type == 'cpu' and q.dtype == torch.bfloat16 and q.shape[-2] <= 256 and torch.is_grad_enabled()


class Block(vision_transformer.Block):
    """timm's pre-norm transformer block as ViT uses it: biases in qkv, LayerNorm with eps 1e-6."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=LayerNorm)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
