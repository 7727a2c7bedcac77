"""Decoders that answer for a part of the masked patches in training: less work for nearly the same signal.

The loss is a mean over masked patches, so a mean over some of them, drawn at random, estimates it without bias.
"""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from mae_mm.models.attention import LayerNorm, plain_is_faster
from mae_mm.models.mae import MAEDecoder
from mae_mm.models.masking import PatchMask, take
from mae_mm.models.vit import resize_table
from mae_mm.registry import MODELS


@MODELS.register_module()
class PartialDecoder(MAEDecoder):
    """`MAEDecoder` that sees the visible patches and, in training, only some of the masked ones.

    In evaluation it is the full decoder. Weights and their names are the full decoder's.

    Args:
        predict_ratio: fraction of the masked patches predicted in training, in (0, 1].
        others: as of `MAEDecoder`.

    Raises:
        ValueError: if `predict_ratio` is not in (0, 1].
    """

    def __init__(self, *args, predict_ratio: float = 1 / 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < predict_ratio <= 1:
            raise ValueError(f'predict_ratio={predict_ratio} is no fraction of the masked patches in (0, 1]')
        self.predict_ratio = predict_ratio

    def num_asked(self, num_masked: int) -> int:
        """M, how many of the masked patches of an image are predicted in training: at least one."""
        return max(round(num_masked * self.predict_ratio), 1)

    def asked(self, patch_mask: PatchMask) -> Tensor:
        """Which patches are to be judged: (N, L) bool. A masked patch's place in the shuffle is as good as random."""
        if not self.training:
            return patch_mask.mask
        num_visible = patch_mask.ids_keep.shape[1]
        last = num_visible + self.num_asked(patch_mask.mask.shape[1] - num_visible)
        return patch_mask.mask & (patch_mask.ids_restore < last)

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict. Arguments and result as of `MAEDecoder`; in training zeros stand where nothing was asked."""
        if not self.training:
            return super().forward(latent, ids_restore, grid)
        n, num_visible = len(latent), latent.shape[1] - 1
        num_asked = self.num_asked(ids_restore.shape[1] - num_visible)
        ids = ids_restore.argsort(dim=1)[:, :num_visible + num_asked]  # (N, K + M)
        x = self.decoder_embed(latent)
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(n, num_asked, -1)], dim=1)  # (N, 1 + K + M, D)
        x = x + self.positions(ids, grid)
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x[:, 1 + num_visible:]))  # (N, M, P)
        return put(pred, ids[:, num_visible:], ids_restore.shape[1])

    def positions(self, ids: Tensor, grid: tuple[int, int]) -> Tensor:
        """Rows of the position table for the class token and patches (N, T): (N, 1 + T, D)."""
        table = resize_table(self.decoder_pos_embed, self.grid_size, grid)
        return take(table.expand(len(ids), -1, -1), F.pad(ids + 1, (1, 0)))


@MODELS.register_module()
class CrossDecoder(PartialDecoder):
    """Decoder whose mask tokens attend to the encoded patches and not to each other (the idea of arXiv:2401.14391).

    A block is attention from mask tokens to the encoder's tokens, then an MLP. So each prediction depends on nothing
    but the visible patches and its own place, and asking for fewer changes none. In evaluation every patch is asked,
    visible ones too.
    Differs from the paper: every block reads the encoder's last output, not a learned mix of its blocks.

    Args:
        as of `PartialDecoder`.
    """

    def __init__(
        self, embed_dim: int = 512, depth: int = 8, num_heads: int = 16, predict_ratio: float = 1 / 3, **kwargs,
    ) -> None:
        super().__init__(embed_dim, 0, num_heads, predict_ratio=predict_ratio, **kwargs)
        self.decoder_blocks = nn.ModuleList(CrossBlock(embed_dim, num_heads) for _ in range(depth))
        self.memory_norm = LayerNorm(embed_dim)

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict. Arguments and result as of `PartialDecoder`."""
        num_patches, num_visible = ids_restore.shape[1], latent.shape[1] - 1
        ids_shuffle = ids_restore.argsort(dim=1)
        first, last = 0, num_patches
        if self.training:
            first, last = num_visible, num_visible + self.num_asked(num_patches - num_visible)
        ids_asked = ids_shuffle[:, first:last]  # (N, M)
        memory = self.decoder_embed(latent)
        memory = self.memory_norm(memory + self.positions(ids_shuffle[:, :num_visible], grid))  # (N, 1 + K, D)
        x = self.mask_token + self.positions(ids_asked, grid)[:, 1:]
        for block in self.decoder_blocks:
            x = block(x, memory)
        return put(self.decoder_pred(self.decoder_norm(x)), ids_asked, num_patches)


class CrossAttention(nn.Module):
    """Multi-head attention from (N, M, D) queries to (N, T, D) memory."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(N, M, D) and (N, T, D) -> (N, M, D)."""
        q = self._heads(self.q(x))
        k, v = (self._heads(part) for part in self.kv(memory).chunk(2, dim=-1))
        if plain_is_faster(q):
            x = (q @ k.transpose(-2, -1) * q.shape[-1]**-0.5).softmax(dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:  # (N, T, D) -> (N, heads, T, D / heads)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossBlock(nn.Module):
    """Pre-norm block: attention to the memory, MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(N, M, D) queries and (N, T, D) memory, normalised -> (N, M, D)."""
        x = x + self.attn(self.norm1(x), memory)
        return x + self.mlp(self.norm2(x))


def put(pred: Tensor, ids: Tensor, num_patches: int) -> Tensor:
    """Answers (N, M, P) for the patches (N, M) in their places among zeros: (N, L, P)."""
    ids = ids.unsqueeze(-1).expand(-1, -1, pred.shape[-1])
    return pred.new_zeros(len(pred), num_patches, pred.shape[-1]).scatter(1, ids, pred)
