"""The one ViT: backbone of pre-training and of every transfer."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_mm.models.archs import ARCHS, last_of_quarters, read_arch
from mae_mm.models.attention import Block, LayerNorm, init_vit_weights
from mae_mm.models.patches import grid_of
from mae_mm.models.positions import fixed_table, resize_table
from mae_mm.models.precision import native_dtype
from mae_mm.registry import MODELS

OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')


@MODELS.register_module()
class ViT(BaseModule):
    """Plain vision transformer (Dosovitskiy et al., arXiv:2010.11929) with timm's blocks and parameter names.

    MAE uses `embed` and `encode` with a gather between them; all others call the module.

    Args:
        arch: a size (tiny, small, base, large, huge), or dict(embed_dim=, depth=, num_heads=).
        img_size: side, or (height, width), in pixels, of the images whose grid `pos_embed` has. The table is resampled
            to the grid of images of other sizes.
        in_chans: channels of the images: how many, or a name for each. With names, weights of another checkpoint go to
            the channels of the same name (`adapt_patch_embed`), and pictures show red, green and blue.
        out_type: 'raw' (N, 1 + L, D), all tokens after the final norm; 'cls_token' (N, D), the class token after it;
            'avg_featmap' (N, D), the mean patch token, normalised by `fc_norm`; 'featmap' (N, D, rows, cols), the
            patch tokens of each block in `out_indices`, without norm.
        out_indices: blocks whose tokens 'featmap' returns; negative ones count from the end.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        tuned_blocks: partial fine-tuning (MAE, Fig. 9): only this many of the last blocks, and the norm after them,
            are trained; 0.5 is the MLP of the last block alone, 0 none (linear probing), None everything.
        window_size: side, in tokens, of the windows in which all blocks but the last of each quarter attend (ViTDet,
            arXiv:2203.16527, section 3); 'featmap' only. There is no class token then: its parameter stays, frozen,
            so that the same checkpoint fits. 0: every block attends to all tokens.
        rel_pos: relative positions, zero at the start: decomposed ones with windows, a bias for each offset without.
            Their tables have the size of the window or of the grid of `img_size`, and are resampled for others.
        checkpointing: recompute each block's activations in the backward pass: less memory, equal results.
        bf16: compute in bfloat16 under autocast but return float32, for hosts whose other operators take no bfloat16
            (mmcv's nms and RoIAlign); 'auto': where `native_dtype` is bfloat16. For other models use
            `mae_mm.AutocastOptimWrapper`.
    """

    def __init__(
        self,
        arch: Literal[tuple(ARCHS)] | dict = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int | Sequence[str] = 3,
        out_type: str = 'raw',
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        tuned_blocks: float | None = None,
        window_size: int = 0,
        rel_pos: bool = False,
        checkpointing: bool = False,
        bf16: bool | Literal['auto'] = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims = read_arch(arch)
        self.embed_dim, self.depth = dims['embed_dim'], dims['depth']
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type={out_type!r} must be one of {", ".join(OUT_TYPES)}')
        if tuned_blocks not in (None, 0, 0.5, *range(1, self.depth + 1)):
            raise ValueError(f'tuned_blocks={tuned_blocks} must be 0, 0.5, 1 … {self.depth} (all blocks) or None')
        if window_size and out_type != 'featmap':
            raise ValueError(f"window_size={window_size} needs out_type='featmap', got {out_type!r}")
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_size, self.out_type = patch_size, out_type
        self.in_chans, self.bands = (in_chans, None) if isinstance(in_chans, int) else (len(in_chans), tuple(in_chans))
        self.grid_size = grid_of(img_size, patch_size)
        self.out_indices = sorted(i + self.depth if i < 0 else i for i in out_indices)
        if not self.out_indices or self.out_indices[0] < 0 or self.out_indices[-1] >= self.depth:
            raise ValueError(f'out_indices={tuple(out_indices)} must be one or more of the {self.depth} blocks, from 0')
        self.tuned_blocks = self.depth if tuned_blocks is None else tuned_blocks
        self.window_size, self.checkpointing, self.bf16 = window_size, checkpointing, bf16
        self.global_blocks = last_of_quarters(self.depth) if window_size else set(range(self.depth))

        self.patch_embed = PatchEmbed(None, patch_size, self.in_chans, self.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.pos_embed = nn.Parameter(fixed_table(self.embed_dim, self.grid_size))
        drop_paths = torch.linspace(0, drop_path_rate, self.depth).tolist() if drop_path_rate else [None] * self.depth
        self.blocks = nn.ModuleList(
            Block(self.embed_dim, dims['num_heads'], dims.get('mlp_ratio', 4.0), drop_path=p) for p in drop_paths)
        # A norm that no output passes through would make DistributedDataParallel wait for its gradient for ever.
        self.norm = LayerNorm(self.embed_dim) if out_type in ('raw', 'cls_token') else nn.Identity()
        self.fc_norm = LayerNorm(self.embed_dim) if out_type == 'avg_featmap' else nn.Identity()
        for i, block in enumerate(self.blocks if rel_pos else ()):
            if not window_size:
                block.attn.add_offset_tables(self.grid_size)
            else:
                block.attn.add_axis_tables(self.grid_size if i in self.global_blocks else (window_size, window_size))
        self._freeze()

    def init_weights(self) -> None:
        """The release's initialisation, then `init_cfg` (a checkpoint) over it; once, as in mmengine."""
        if not self.is_init:
            self.draw_weights()
            super().init_weights()

    def draw_weights(self) -> None:
        """The release's initialisation, again and again."""
        init_vit_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)
        # The patch projection is a linear layer on P values, and initialised as one.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.embed_dim, -1))

    def embed(self, imgs: Tensor) -> Tensor:
        """Patch tokens with their positions, no class token: (N, C, H, W) float -> (N, L, D)."""
        if imgs.shape[1] != self.in_chans:
            raise ValueError(
                f'images have {imgs.shape[1]} channels, the model takes {self.in_chans}; set backbone.in_chans and the '
                'mean and std of the data_preprocessor to the data, or load the images in that many channels')
        grid = grid_of(imgs.shape[2:], self.patch_size)
        project = self.patch_embed if imgs.device.type == 'cpu' else self._project
        return project(imgs) + self.positions(grid)

    def _project(self, imgs: Tensor) -> Tensor:
        """`patch_embed` as one matrix product, (N, C, H, W) -> (N, L, D): faster on a GPU than cuDNN's convolution."""
        rows, cols = grid_of(imgs.shape[2:], self.patch_size)
        if torch.is_autocast_enabled(imgs.device.type):
            imgs = imgs.to(torch.get_autocast_dtype(imgs.device.type))  # before it is copied
        imgs = imgs.reshape(len(imgs), -1, rows, self.patch_size, cols, self.patch_size)
        patches = imgs.permute(0, 2, 4, 1, 3, 5).reshape(len(imgs), rows * cols, -1)
        return F.linear(patches, self.patch_embed.proj.weight.flatten(1), self.patch_embed.proj.bias)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position of every patch in a grid: (1, L, D)."""
        return resize_table(self.pos_embed, self.grid_size, grid)[:, 1:]

    def encode(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Run all blocks on any subset of the patch tokens, and the final norm where there is one.

        (N, K, D), with positions -> (N, 1 + K, D), class token first. `attn_mask`, bool, broadcast to (N, heads, 1 + K,
        1 + K): True where a query attends to a key; all by default.
        """
        x = self._prepend_cls_token(tokens)
        for block in self.blocks:
            x = self._run(block, x, attn_mask=attn_mask)
        return self.norm(x)

    def block_tokens(self, imgs: Tensor, out_indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Tokens after each of some blocks (ascending positions), without norm; the blocks after the last do not run.

        (N, C, H, W) float -> (N, 1 + L, D) each, class token first; (N, L, D) with windows, which have none.
        """
        grid, x, outputs = grid_of(imgs.shape[2:], self.patch_size), self.embed(imgs), []
        x = x if self.window_size else self._prepend_cls_token(x)
        for i, block in enumerate(self.blocks[:out_indices[-1] + 1]):
            x = self._run(block, x, grid=grid, window_size=0 if i in self.global_blocks else self.window_size)
            if i in out_indices:
                outputs.append(x)
        return tuple(outputs)

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) float -> features of `out_type`: one for each tapped block, or just one."""
        bf16 = native_dtype(imgs.device.type)[0] == torch.bfloat16 if self.bf16 == 'auto' else self.bf16
        if not bf16:
            return self._features(imgs)
        with torch.autocast(imgs.device.type, dtype=torch.bfloat16):
            return tuple(x.float() for x in self._features(imgs))

    def train(self, mode: bool = True) -> 'ViT':
        super().train(mode)
        for block in self.blocks[:self.depth - math.ceil(self.tuned_blocks)]:
            block.eval()  # no stochastic depth in frozen blocks
        return self

    def _features(self, imgs: Tensor) -> tuple[Tensor, ...]:
        if self.out_type == 'featmap':
            return self._feature_maps(imgs)
        x = self.encode(self.embed(imgs))
        if self.out_type == 'avg_featmap':
            return (self.fc_norm(x[:, 1:].mean(1)), )
        return (x[:, 0] if self.out_type == 'cls_token' else x, )

    def _prepend_cls_token(self, tokens: Tensor) -> Tensor:
        # len(tokens) would be a constant in an exported graph.
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls_token.to(tokens.dtype), tokens], dim=1)

    def _feature_maps(self, imgs: Tensor) -> tuple[Tensor, ...]:
        rows, cols = grid_of(imgs.shape[2:], self.patch_size)
        return tuple(
            x[:, -rows * cols:].transpose(1, 2).reshape(len(x), self.embed_dim, rows, cols)
            for x in self.block_tokens(imgs, self.out_indices))

    def _run(self, block: nn.Module, x: Tensor, **kwargs) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False, **kwargs)
        return block(x, **kwargs)

    def _freeze(self) -> None:
        """Stop gradients below the tuned part. `fc_norm` is not part of a pre-trained encoder: always trained."""
        if self.out_type == 'featmap':  # what no output depends on
            self.blocks[self.out_indices[-1] + 1:].requires_grad_(False)
        if self.window_size:
            self.cls_token.requires_grad_(False)
        if self.tuned_blocks >= self.depth:
            return
        self.requires_grad_(False)
        for block in self.blocks[self.depth - int(self.tuned_blocks):]:
            block.requires_grad_(True)
        if self.tuned_blocks == 0.5:
            self.blocks[-1].norm2.requires_grad_(True)
            self.blocks[-1].mlp.requires_grad_(True)
        self.norm.requires_grad_(self.tuned_blocks > 0)
        self.fc_norm.requires_grad_(True)
