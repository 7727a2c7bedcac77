"""The masked autoencoder: image -> patches -> mask -> encoder -> decoder -> loss (MAE, arXiv:2111.06377).

Dimensions, here and everywhere: N images, L patches each, K of them visible, D width, P values per patch.
"""

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from mae_mm import targets
from mae_mm.attention import Block, LayerNorm
from mae_mm.masking import PatchMask, fixed_noise, random_masking, take
from mae_mm.patches import grid_of, patchify, unpatchify
from mae_mm.registry import MODELS
from mae_mm.vit import fixed_table, init_vit_weights, resize_table


class Reconstruction(NamedTuple):
    """What the autoencoder makes of N images."""

    pred: Tensor  # (N, L, P): the decoder's answer for every patch, in units of the target
    mask: Tensor  # (N, L) bool: True = masked


@MODELS.register_module()
class MAEDecoder(BaseModule):
    """Shallow transformer from visible tokens to pixels (section 3, "MAE decoder").

    Args:
        embed_dim: width.
        depth: number of blocks.
        num_heads: attention heads, which divide the width.
        encoder_dim, patch_size, in_chans, grid_size: of the encoder; `MAE` fills them in.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(
        self,
        embed_dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        encoder_dim: int = 768,
        patch_size: int = 16,
        in_chans: int = 3,
        grid_size: tuple[int, int] = (14, 14),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dim % num_heads:
            raise ValueError(f'decoder: embed_dim={embed_dim} is no multiple of num_heads={num_heads}')
        self.grid_size = grid_size
        self.decoder_embed = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.decoder_pos_embed = nn.Parameter(fixed_table(embed_dim, grid_size), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(depth))
        self.decoder_norm = LayerNorm(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, patch_size**2 * in_chans)

    def init_weights(self) -> None:
        """The release's initialisation, then `init_cfg` over it; once, as mmengine has it."""
        if self.is_init:
            return
        init_vit_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)
        super().init_weights()

    def forward(self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict every patch.

        Args:
            latent: (N, 1 + K, D) encoded visible tokens, class token first.
            ids_restore: (N, L) int64, index that undoes the shuffle.
            grid: rows and columns of patches, their product is L.

        Returns:
            (N, L, P).
        """
        x = self.decoder_embed(latent)
        n, num_patches = ids_restore.shape
        mask_tokens = self.mask_token.to(x.dtype).expand(n, num_patches + 1 - x.shape[1], -1)
        patches = take(torch.cat([x[:, 1:], mask_tokens], dim=1), ids_restore)  # (N, L, decoder width), in image order
        x = torch.cat([x[:, :1], patches], dim=1) + resize_table(self.decoder_pos_embed, self.grid_size, grid)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x)[:, 1:])


@MODELS.register_module()
class MAE(BaseSelfSupervisor):
    """Masked autoencoder as an mmpretrain self-supervised algorithm.

    Args:
        backbone: config of `mae_mm.ViT`; its `out_type` is 'raw' here.
        neck: config of `mae_mm.MAEDecoder`; what it must know of the encoder is filled in.
        mask_ratio: fraction of patches hidden, in (0, 1).
        norm_pix_loss: whether each target patch is normalised by its own mean and deviation.
        data_preprocessor: `mae_mm.ImagePreprocessor` or one of mmpretrain's.

    Raises:
        ValueError: if `mask_ratio` is not in (0, 1), or the backbone's `out_type` is not 'raw'.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not 0 < mask_ratio < 1:
            raise ValueError(
                f'mask_ratio={mask_ratio} is not in (0, 1): it is the fraction of patches to hide and predict; '
                'the paper uses 0.75')
        backbone = MODELS.build(backbone)
        if backbone.out_type != 'raw':
            raise ValueError(f"out_type={backbone.out_type!r} of the backbone: pre-training needs 'raw', the default")
        encoder = dict(
            encoder_dim=backbone.embed_dim, patch_size=backbone.patch_size, in_chans=backbone.in_chans,
            grid_size=backbone.grid_size)
        super().__init__(
            backbone=backbone, neck=MODELS.build({**encoder, **neck}),
            data_preprocessor=data_preprocessor or dict(type='mae_mm.ImagePreprocessor'), init_cfg=init_cfg)
        self.mask_ratio, self.norm_pix_loss = mask_ratio, norm_pix_loss
        # Pre-training keeps the sine-cosine table; transfers may train it.
        self.backbone.pos_embed.requires_grad_(False)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', noise: Tensor | None = None,
        sample_idx: Tensor | None = None, img_path: list[str] | None = None,
    ) -> tuple[Tensor, ...] | dict[str, Tensor] | list[dict]:
        """One entry for all uses, as in every OpenMMLab model.

        Args:
            inputs: (N, C, H, W) float, preprocessed.
            mode: 'tensor' returns `extract_feat`, 'loss' `loss`, 'predict' `predict`.
            noise: (N, L) float that decides the masks; drawn on the device when absent.
            sample_idx: (N,) int64, number of each image in its data set; 'predict' derives fixed masks from it.
            data_samples, img_path: not used.

        Raises:
            ValueError: for another mode.
        """
        if mode == 'tensor':
            return self.extract_feat(inputs)
        if mode == 'loss':
            return self.loss(inputs, noise=noise)
        if mode == 'predict':
            return self.predict(inputs, noise=noise, sample_idx=sample_idx)
        raise ValueError(f"mode={mode!r} is none of 'tensor', 'loss', 'predict'")

    def loss(self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Mean squared error on the masked patches, float32: dict(loss=scalar)."""
        out = self.reconstruct(inputs, noise)
        with torch.autocast(inputs.device.type, enabled=False):
            return dict(loss=targets.masked_mse(out.pred, self.target(inputs), out.mask))

    def reconstruct(self, imgs: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Hide patches, encode the rest, predict all.

        Args:
            imgs: (N, C, H, W) float.
            noise: (N, L) float; the patches with the lowest scores stay visible.
        """
        tokens = self.backbone.embed(imgs)  # (N, L, D)
        patch_mask = self.draw_mask(tokens, noise)
        latent = self.backbone.encode(take(tokens, patch_mask.ids_keep))  # (N, 1 + K, D)
        grid = grid_of(tuple(imgs.shape[2:]), self.backbone.patch_size)
        return Reconstruction(self.neck(latent, patch_mask.ids_restore, grid), patch_mask.mask)

    def draw_mask(self, tokens: Tensor, noise: Tensor | None = None) -> PatchMask:
        """Masks for (N, L, D) tokens, from `noise` (N, L) or from the device's own generator."""
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=tokens.device)
        if noise.shape != tokens.shape[:2]:
            raise ValueError(
                f'noise of shape {tuple(noise.shape)}, want one score for each patch: {tuple(tokens.shape[:2])}')
        return random_masking(noise, self.mask_ratio)

    def target(self, imgs: Tensor) -> Tensor:
        """What the decoder must answer: (N, C, H, W) -> (N, L, P) float32."""
        patches = patchify(imgs.float(), self.backbone.patch_size)
        return targets.normalize_patches(patches) if self.norm_pix_loss else patches

    def to_images(self, pred: Tensor, imgs: Tensor) -> Tensor:
        """Turn predictions into images; normalised ones by each true patch's own mean and deviation.

        Args:
            pred: (N, L, P), in units of the target.
            imgs: (N, C, H, W), the originals.

        Returns:
            (N, C, H, W) float32, in units of `imgs`.
        """
        pred = pred.float()
        if self.norm_pix_loss:
            mean, std = targets.patch_stats(patchify(imgs.float(), self.backbone.patch_size))
            pred = pred * std + mean
        return unpatchify(pred, self.backbone.patch_size, grid_of(tuple(imgs.shape[2:]), self.backbone.patch_size))

    def predict(
        self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None,
        sample_idx: Tensor | None = None,
    ) -> list[dict]:
        """Reconstruct held-out images under masks that never change.

        Returns:
            N dicts: `loss`, `patch_mean` and `interpolation` (masked loss of the model and of two baselines that learn
            nothing, scalars, float32), `reconstruction` (C, H, W) float32 in units of `inputs`, `mask` (L,) bool.
        """
        if noise is None:
            numbers = range(len(inputs)) if sample_idx is None else sample_idx.tolist()
            rows, cols = grid_of(tuple(inputs.shape[2:]), self.backbone.patch_size)
            noise = fixed_noise(numbers, rows * cols).to(inputs.device)
        pred, mask = self.reconstruct(inputs, noise)
        target = self.target(inputs)
        losses = [targets.masked_mse(p[None], t[None], m[None]) for p, t, m in zip(pred, target, mask, strict=True)]
        with torch.autocast(inputs.device.type, enabled=False):
            patch_mean, interpolation = targets.baseline_losses(
                inputs, mask, self.backbone.patch_size, self.norm_pix_loss)
        columns = dict(
            loss=losses, patch_mean=patch_mean, interpolation=interpolation,
            reconstruction=self.to_images(pred, inputs), mask=mask)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
