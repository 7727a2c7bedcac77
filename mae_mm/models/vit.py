"""The one ViT: backbone of pre-training and of every transfer."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_mm.models.attention import Block, LayerNorm
from mae_mm.models.patches import grid_of
from mae_mm.models.positions import sincos_table
from mae_mm.registry import MODELS

ARCHS = {
    'tiny': dict(embed_dim=192, depth=12, num_heads=3),
    'small': dict(embed_dim=384, depth=12, num_heads=6),
    'base': dict(embed_dim=768, depth=12, num_heads=12),
    'large': dict(embed_dim=1024, depth=24, num_heads=16),
    'huge': dict(embed_dim=1280, depth=32, num_heads=16),
}
OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')


@MODELS.register_module()
class ViT(BaseModule):
    """Plain vision transformer (Dosovitskiy et al., arXiv:2010.11929) with timm's blocks and parameter names.

    MAE uses `embed` and `encode` with a gather between them; everybody else calls the module.

    Args:
        arch: a size (tiny, small, base, large, huge), or dict(embed_dim=, depth=, num_heads=).
        img_size: side, or (height, width), in pixels, of the images whose grid `pos_embed` has. Images of other sizes
            are welcome: the table is resampled to their grid.
        patch_size: side of a patch in pixels.
        in_chans: channels of the image.
        out_type: 'raw' (N, 1 + L, D), all tokens after the final norm; 'cls_token' (N, D), the class token after it;
            'avg_featmap' (N, D), the mean patch token, normalised by `fc_norm`; 'featmap' (N, D, rows, cols), the
            patch tokens of each block in `out_indices`, without norm.
        out_indices: blocks whose tokens 'featmap' returns; negative ones count from the end.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        tuned_blocks: partial fine-tuning (MAE, Fig. 9): only the last so many blocks, and the norm after them, are
            trained; 0.5 is the MLP of the last block alone, 0 none (linear probing), None everything.
        window_size: side, in tokens, of the windows in which all blocks but the last of each quarter attend (ViTDet,
            arXiv:2203.16527, section 3); 'featmap' only. There is no class token then: its parameter stays, frozen,
            so that the same checkpoint fits. 0: every block attends to all tokens.
        rel_pos: relative positions, zero at the start: decomposed ones with windows, a bias for each offset without.
            Their tables have the size of the window or of the grid of `img_size`, and are resampled for others.
        checkpointing: recompute each block's activations in the backward pass: less memory, equal results.
        bf16: compute in bfloat16 under autocast but return float32, for hosts whose other operators take no bfloat16
            (mmcv's nms and RoIAlign). Whole models do better with `mae_mm.AutocastOptimWrapper`.
        init_cfg: e.g. dict(type='mae_mm.Pretrained', checkpoint=…).

    Raises:
        ValueError: for an unknown `arch`, `out_type` or block index, an `img_size` that patches do not fill, or windows
            with another `out_type`.
    """

    def __init__(
        self,
        arch: Literal[tuple(ARCHS)] | dict = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        out_type: str = 'raw',
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        tuned_blocks: float | None = None,
        window_size: int = 0,
        rel_pos: bool = False,
        checkpointing: bool = False,
        bf16: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dims = _read_arch(arch)
        self.embed_dim, self.depth = dims['embed_dim'], dims['depth']
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type={out_type!r} is none of {", ".join(OUT_TYPES)}')
        if tuned_blocks not in (None, 0, 0.5, *range(1, self.depth + 1)):
            raise ValueError(f'tuned_blocks={tuned_blocks} is none of 0, 0.5, 1 … {self.depth} (all blocks), None')
        if window_size and out_type != 'featmap':
            raise ValueError(f"window_size={window_size} needs out_type='featmap', not {out_type!r}")
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_size, self.in_chans, self.out_type = patch_size, in_chans, out_type
        self.grid_size = grid_of(img_size, patch_size)
        self.out_indices = _block_indices(out_indices, self.depth)
        self.tuned_blocks = self.depth if tuned_blocks is None else tuned_blocks
        self.window_size, self.checkpointing, self.bf16 = window_size, checkpointing, bf16
        self.global_blocks = set(range(self.depth)) if not window_size else last_of_quarters(self.depth)

        self.patch_embed = PatchEmbed(None, patch_size, in_chans, self.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.pos_embed = nn.Parameter(fixed_table(self.embed_dim, self.grid_size))
        drop_paths = torch.linspace(0, drop_path_rate, self.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(self.embed_dim, dims['num_heads'], dims.get('mlp_ratio', 4.0), drop_path=p) for p in drop_paths)
        # A norm that no output passes through would make DistributedDataParallel wait for its gradient for ever.
        if out_type in ('raw', 'cls_token'):
            self.norm = LayerNorm(self.embed_dim)
        elif out_type == 'avg_featmap':
            self.fc_norm = LayerNorm(self.embed_dim)
        if rel_pos:
            self._add_rel_pos()
        self._freeze()

    def init_weights(self) -> None:
        """The release's initialisation, then `init_cfg` (a checkpoint) over it; once, as mmengine has it."""
        if self.is_init:
            return
        init_vit_weights(self)
        nn.init.normal_(self.cls_token, std=0.02)
        # The patch projection is a linear layer on P values, and initialised as one.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.embed_dim, -1))
        super().init_weights()

    def embed(self, imgs: Tensor) -> Tensor:
        """Patch tokens with their positions, no class token: (N, C, H, W) float -> (N, L, D).

        Raises:
            ValueError: if the channels are not `in_chans`, or patches do not fill the image.
        """
        if imgs.shape[1] != self.in_chans:
            raise ValueError(
                f'images have {imgs.shape[1]} channels, the model takes {self.in_chans}; set backbone.in_chans and the '
                'mean and std of the data_preprocessor to the data, or load the images in that many channels')
        grid = grid_of(tuple(imgs.shape[2:]), self.patch_size)
        return self.patch_embed(imgs) + self.positions(grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position of every patch in a grid of rows and columns: (1, L, D)."""
        return resize_table(self.pos_embed, self.grid_size, grid)[:, 1:]

    def encode(self, tokens: Tensor) -> Tensor:
        """Run all blocks on any subset of the patch tokens, and the final norm where there is one.

        Args:
            tokens: (N, K, D), with positions.

        Returns:
            (N, 1 + K, D), class token first.
        """
        x = self._prepend_cls_token(tokens)
        for block in self.blocks:
            x = self._run(block, x)
        return self.norm(x) if hasattr(self, 'norm') else x

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) float -> features as `out_type` says: one for each tapped block, or just one."""
        if not self.bf16:
            return self._features(imgs)
        with torch.autocast(imgs.device.type, dtype=torch.bfloat16):
            return tuple(x.float() for x in self._features(imgs))

    def train(self, mode: bool = True) -> 'ViT':
        """Frozen blocks stay in evaluation mode: no stochastic depth there."""
        super().train(mode)
        for block in self.blocks[:self.depth - math.ceil(self.tuned_blocks)]:
            block.eval()
        return self

    def _features(self, imgs: Tensor) -> tuple[Tensor, ...]:
        tokens = self.embed(imgs)
        if self.out_type == 'featmap':
            return self._feature_maps(tokens, grid_of(tuple(imgs.shape[2:]), self.patch_size))
        x = self.encode(tokens)
        if self.out_type == 'avg_featmap':
            return (self.fc_norm(x[:, 1:].mean(1)), )
        return (x[:, 0] if self.out_type == 'cls_token' else x, )

    def _prepend_cls_token(self, tokens: Tensor) -> Tensor:
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([cls_token.to(tokens.dtype), tokens], dim=1)

    def _feature_maps(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        x = tokens if self.window_size else self._prepend_cls_token(tokens)
        maps = []
        for i, block in enumerate(self.blocks[:max(self.out_indices) + 1]):
            x = self._run(block, x, grid=grid, window_size=0 if i in self.global_blocks else self.window_size)
            if i in self.out_indices:
                patches = x[:, -tokens.shape[1]:]
                maps.append(patches.transpose(1, 2).reshape(len(x), self.embed_dim, *grid))
        return tuple(maps)

    def _run(self, block: nn.Module, x: Tensor, **kwargs) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False, **kwargs)
        return block(x, **kwargs)

    def _add_rel_pos(self) -> None:
        for i, block in enumerate(self.blocks):
            if not self.window_size:
                block.attn.add_offset_tables(self.grid_size)
            else:
                in_window = i not in self.global_blocks
                block.attn.add_axis_tables((self.window_size, ) * 2 if in_window else self.grid_size)

    def _freeze(self) -> None:
        """Stop gradients below the tuned part. `fc_norm` is no part of a pre-trained encoder: always trained."""
        if self.out_type == 'featmap':  # what no output depends on
            self.blocks[max(self.out_indices) + 1:].requires_grad_(False)
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
        if hasattr(self, 'norm') and self.tuned_blocks > 0:
            self.norm.requires_grad_(True)
        if hasattr(self, 'fc_norm'):
            self.fc_norm.requires_grad_(True)


def last_of_quarters(depth: int) -> set[int]:
    """The last block of each quarter: where ViTDet's windows meet, and where MAE taps the ViT for detection."""
    return {depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)} - {-1}


def init_vit_weights(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero biases, unit norms, as in MAE's release (appendix A.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def fixed_table(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Sine-cosine table with a zero row for the class token in front: (1, 1 + L, D)."""
    return F.pad(sincos_table(embed_dim, grid), (0, 0, 1, 0)).unsqueeze(0)


def resize_table(table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resample a position table with a class row, (1, 1 + L, D), to another grid; the same grid is the identity."""
    return resample_abs_pos_embed(table, list(new_grid), list(old_grid), num_prefix_tokens=1)


def _read_arch(arch: str | dict) -> dict:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is none of {", ".join(ARCHS)}; or give dict(embed_dim=, depth=, num_heads=)')
        return ARCHS[arch]
    missing = {'embed_dim', 'depth', 'num_heads'} - set(arch)
    unknown = set(arch) - {'embed_dim', 'depth', 'num_heads', 'mlp_ratio'}
    if missing or unknown:
        raise ValueError(
            f'arch={dict(arch)}: it needs embed_dim, depth and num_heads, and may have mlp_ratio '
            f'(missing: {sorted(missing) or "none"}, unknown: {sorted(unknown) or "none"})')
    if arch['embed_dim'] % arch['num_heads']:
        raise ValueError(f'arch={dict(arch)}: embed_dim is no multiple of num_heads')
    return arch


def _block_indices(indices: Sequence[int], depth: int) -> tuple[int, ...]:
    resolved = tuple(sorted(i + depth if i < 0 else i for i in indices))
    if not resolved or resolved[0] < 0 or resolved[-1] >= depth:
        raise ValueError(
            f'out_indices={tuple(indices)} are not all blocks of a ViT with {depth} blocks (0 … {depth - 1})')
    return resolved
