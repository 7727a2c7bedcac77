"""Decoders: the paper's, and two that predict a part of the masked patches in training, which is less work.

The loss is a mean over masked patches, so a mean over some of them, drawn at random, estimates it without bias.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import Mlp
from torch import Tensor, nn

from mae_mm.models.attention import Block, LayerNorm, attend, init_vit_weights
from mae_mm.models.masking import PatchMask, take
from mae_mm.models.positions import fixed_table, resize_table
from mae_mm.registry import MODELS


@MODELS.register_module()
class MAEDecoder(BaseModule):
    """Shallow transformer from visible tokens to pixels (section 3, "MAE decoder").

    `encoder_dim` and `grid_size` of the encoder, and `num_values`, P of the target, are filled in by `MAE`.
    """

    block_type = Block
    predicts_all = True  # whether every masked patch is predicted in training

    def __init__(
        self, embed_dim: int = 512, depth: int = 8, num_heads: int = 16, encoder_dim: int = 768,
        grid_size: tuple[int, int] = (14, 14), num_values: int = 768, init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise ValueError(f'decoder: embed_dim={embed_dim} must be a multiple of num_heads={num_heads}')
        self.grid_size = grid_size
        self.decoder_embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.decoder_pos_embed = nn.Parameter(fixed_table(embed_dim, grid_size), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(self.block_type(embed_dim, num_heads) for _ in range(depth))
        self.decoder_norm = LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, num_values)

    def init_weights(self) -> None:
        """The release's initialisation, then `init_cfg` over it; once, as in mmengine."""
        if self.is_init:
            return
        init_vit_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)
        super().init_weights()

    def predicted(self, patch_mask: PatchMask) -> Tensor:
        """Which patches count in the loss: every masked one, (N, L) bool."""
        return patch_mask.mask

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict every patch, (N, L, P), from `latent` (N, 1 + K, D), the encoded visible tokens, class token first.

        If the encoder saw mask tokens, `latent` holds all L patches. `ids_restore` is that of `PatchMask`.
        """
        x = self.fill_gaps(latent, ids_restore, grid)
        for block in self.decoder_blocks:
            x = block(x)
        return self.predict(x)

    def fill_gaps(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens of the decoder, class token first, mask tokens where patches were hidden: (N, 1 + L, width)."""
        x = self.decoder_embed(latent)
        n, num_patches = ids_restore.shape
        mask_tokens = self.mask_token.to(x.dtype).expand(n, num_patches + 1 - x.shape[1], -1)
        patches = take(torch.cat([x[:, 1:], mask_tokens], dim=1), ids_restore)  # (N, L, decoder width), in image order
        return torch.cat([x[:, :1], patches], dim=1) + resize_table(self.decoder_pos_embed, self.grid_size, grid)

    def predict(self, x: Tensor) -> Tensor:
        """(N, 1 + L, width) -> (N, L, P)."""
        return self.decoder_pred(self.decoder_norm(x)[:, 1:])


@MODELS.register_module()
class PartialDecoder(MAEDecoder):
    """`MAEDecoder` that sees the visible patches and, in training, only some of the masked ones.

    In evaluation it is the full decoder. Weights and their names are the full decoder's. `predict_ratio` is the
    fraction of the masked patches predicted in training, in (0, 1]; the other arguments are those of `MAEDecoder`.
    """

    predicts_all = False

    def __init__(self, *args, predict_ratio: float = 1 / 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < predict_ratio <= 1:
            raise ValueError(f'predict_ratio={predict_ratio} must be a fraction of the masked patches in (0, 1]')
        self.predict_ratio = predict_ratio

    def num_predicted(self, num_masked: int) -> int:
        """M, how many of the masked patches of an image are predicted in training: at least one."""
        return max(round(num_masked * self.predict_ratio), 1)

    def predicted(self, patch_mask: PatchMask) -> Tensor:
        """Which patches count in the loss: (N, L) bool, in training the first M masked ones of the random shuffle."""
        if not self.training:
            return patch_mask.mask
        num_visible = patch_mask.ids_keep.shape[1]
        last = num_visible + self.num_predicted(patch_mask.mask.shape[1] - num_visible)
        return patch_mask.mask & (patch_mask.ids_restore < last)

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict. Arguments and result as of `MAEDecoder`; in training zeros stand where nothing was predicted."""
        if not self.training:
            return super().forward(latent, ids_restore, grid)
        n, num_visible = len(latent), latent.shape[1] - 1
        num_predicted = self.num_predicted(ids_restore.shape[1] - num_visible)
        ids = ids_restore.argsort(dim=1)[:, :num_visible + num_predicted]  # (N, K + M)
        x = self.decoder_embed(latent)
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(n, num_predicted, -1)], dim=1)  # (N, 1 + K + M, D)
        x = x + self.positions(ids, grid)
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x[:, 1 + num_visible:]))  # (N, M, P)
        return _put(pred, ids[:, num_visible:], ids_restore.shape[1])

    def positions(self, ids: Tensor, grid: tuple[int, int]) -> Tensor:
        """Rows of the position table for the class token and patches (N, T): (N, 1 + T, D)."""
        table = resize_table(self.decoder_pos_embed, self.grid_size, grid)
        return take(table.expand(len(ids), -1, -1), F.pad(ids + 1, (1, 0)))


class CrossAttention(nn.Module):
    """Multi-head attention from (N, M, D) queries to (N, T, D) memory."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self._heads(self.q(x))
        k, v = (self._heads(part) for part in self.kv(memory).chunk(2, dim=-1))
        return self.proj(attend(q, k, v, q.shape[-1]**-0.5).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:  # (N, T, D) -> (N, heads, T, D / heads)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossBlock(nn.Module):
    """Pre-norm block: attention from (N, M, D) queries to the (N, T, D) memory, MLP."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), memory)
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class CrossDecoder(PartialDecoder):
    """Decoder whose mask tokens attend to the encoded patches and not to each other (the idea of arXiv:2401.14391).

    A block is attention from mask tokens to the encoder's tokens, then an MLP. So each prediction depends on the
    visible patches and its own position alone, not on which others are predicted. In evaluation every patch is
    predicted, visible ones too.
    Differs from the paper: every block reads the encoder's last output, not a learned mix of its blocks.
    """

    block_type = CrossBlock

    def __init__(self, embed_dim: int = 512, *args, **kwargs) -> None:
        super().__init__(embed_dim, *args, **kwargs)
        self.memory_norm = LayerNorm(embed_dim)

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        num_patches, num_visible = ids_restore.shape[1], latent.shape[1] - 1
        ids_shuffle = ids_restore.argsort(dim=1)
        first, last = 0, num_patches
        if self.training:
            first, last = num_visible, num_visible + self.num_predicted(num_patches - num_visible)
        ids = ids_shuffle[:, first:last]  # (N, M)
        memory = self.decoder_embed(latent)
        memory = self.memory_norm(memory + self.positions(ids_shuffle[:, :num_visible], grid))  # (N, 1 + K, D)
        x = self.mask_token + self.positions(ids, grid)[:, 1:]
        for block in self.decoder_blocks:
            x = block(x, memory)
        return _put(self.decoder_pred(self.decoder_norm(x)), ids, num_patches)


def _put(pred: Tensor, ids: Tensor, num_patches: int) -> Tensor:
    """Predictions (N, M, P) for the patches (N, M) at their positions among zeros: (N, L, P)."""
    ids = ids.unsqueeze(-1).expand(-1, -1, pred.shape[-1])
    return pred.new_zeros(len(pred), num_patches, pred.shape[-1]).scatter(1, ids, pred)
