"""The masked autoencoder: image -> patches -> mask -> encoder -> decoder -> loss (MAE, arXiv:2111.06377).

Dimensions, here and everywhere: N images, L patches each, K of them visible, D width, P values per patch.
"""

import math
from typing import NamedTuple

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from mae_mm.models.masking import SAMPLERS, PatchMask, fixed_noise, take
from mae_mm.models.patches import grid_of
from mae_mm.models.targets import PixelTarget, flat_patches, masked_means, with_data
from mae_mm.registry import MODELS


class Reconstruction(NamedTuple):
    """The autoencoder's prediction for N images."""

    pred: Tensor  # (N, L, P): the decoder's prediction for every patch, in units of the target
    mask: Tensor  # (N, L) bool: True = masked, and predicted (`mae_mm.PartialDecoder` does not predict all)


class MaskedAutoencoder(BaseSelfSupervisor):
    """What every masked autoencoder does, as an mmpretrain algorithm; subclasses implement `reconstruct`.

    `backbone` and `neck` are encoder and decoder; `target` is one of `mae_mm.models.targets`, and its `patch_size` that
    of the masks; the other arguments are those of `MAE`.
    """

    samplers = tuple(SAMPLERS)

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, target: nn.Module, mask_ratio: float, mask_sampling: str,
        loss_on: str, data_preprocessor: dict | nn.Module | None, init_cfg: dict | None,
    ) -> None:
        if not 0 < mask_ratio < 1:
            raise ValueError(f'mask_ratio={mask_ratio} must be in (0, 1), a fraction of patches; the paper uses 0.75')
        if mask_sampling not in self.samplers:
            raise ValueError(f"mask_sampling={mask_sampling!r} must be one of {', '.join(self.samplers)}")
        if loss_on not in ('masked', 'all'):
            raise ValueError(f"loss_on={loss_on!r} must be 'masked' or 'all'")
        super().__init__(
            backbone=backbone, neck=neck, target_generator=target,
            data_preprocessor=data_preprocessor or dict(type='mae_mm.ImagePreprocessor'), init_cfg=init_cfg)
        self.mask_ratio, self.mask_sampling, self.loss_on = mask_ratio, mask_sampling, loss_on
        self.patch_size = target.patch_size

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', noise: Tensor | None = None,
        sample_idx: Tensor | None = None, img_path: list[str] | None = None, valid: Tensor | None = None,
    ) -> tuple[Tensor, ...] | dict[str, Tensor] | list[dict]:
        """One entry for all uses, as in every OpenMMLab model, for preprocessed (N, C, H, W) float images.

        `noise` (N, L) float decides the masks; drawn on the device when absent. `sample_idx` (N,) int64 is the number
        of each image in its data set; 'predict' derives fixed masks from it. `valid` (N, C, H, W) bool tells which
        pixels have data; the others do not count, nor do patches with few of them (`min_valid` of the target).
        """
        if mode == 'tensor':
            return self.extract_feat(inputs)
        if mode == 'loss':
            return self.loss(inputs, noise=noise, valid=valid)
        if mode == 'predict':
            return self.predict(inputs, noise=noise, sample_idx=sample_idx, valid=valid)
        raise ValueError(f"mode={mode!r} must be one of 'tensor', 'loss', 'predict'")

    def loss(
        self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean error on the masked patches (squared, unless the target has another), float32: dict(loss=scalar)."""
        pred, mask = self.reconstruct(inputs, noise)
        return dict(loss=self.compare(pred, mask, inputs, valid))

    def compare(self, pred: Tensor, mask: Tensor, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss of predictions (N, L, P) for images (N, C, H, W), float32, over the patches of `mask` (N, L)."""
        with torch.autocast(imgs.device.type, enabled=False):
            errors = self.target_generator.errors(pred, self.target(imgs, valid), valid)  # (N, L)
            if valid is not None:
                counted = with_data(valid, self.patch_size, self.target_generator.min_valid)
                counted = counted & mask if self.loss_on == 'masked' else counted
                return (errors * counted).sum() / counted.sum().clamp_min(1)
            return (errors * mask).sum() / mask.sum() if self.loss_on == 'masked' else errors.mean()

    def reconstruct(self, imgs: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Hide patches of (N, C, H, W) images as `noise` (N, L) decides, encode the rest, predict all."""
        raise NotImplementedError

    def draw_mask(self, imgs: Tensor, noise: Tensor | None = None) -> PatchMask:
        """Masks for (N, C, H, W) images, from `noise` (N, L) or the device's own generator (blocks: the CPU's)."""
        # Block masks end when enough is hidden: on a GPU every step would wait for that.
        on_cpu = noise is None and self.mask_sampling == 'block' and imgs.device.type == 'cuda'
        noise = self.draw_noise(imgs, noise, 'cpu' if on_cpu else imgs.device)
        patch_mask = SAMPLERS[self.mask_sampling](noise, self.mask_ratio, self.grid(imgs))
        if on_cpu:
            return PatchMask(*(part.pin_memory().to(imgs.device, non_blocking=True) for part in patch_mask))
        return patch_mask

    def draw_noise(self, imgs: Tensor, noise: Tensor | None, device: str | torch.device) -> Tensor:
        """One score for each patch of (N, C, H, W) images, (N, L), drawn on the device unless given."""
        rows, cols = self.grid(imgs)
        if noise is None:
            return torch.rand(len(imgs), rows * cols, device=device)
        if noise.shape != (len(imgs), rows * cols):  # it would broadcast
            raise ValueError(f'noise of shape {tuple(noise.shape)} must be {(len(imgs), rows * cols)}')
        return noise

    def grid(self, imgs: Tensor) -> tuple[int, int]:
        return grid_of(imgs.shape[2:], self.patch_size)

    def target(self, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        """What the decoder has to predict for (N, C, H, W) images: (N, L, …), pixels in float32."""
        return self.target_generator(imgs, self.data_preprocessor, valid)

    def to_images(self, pred: Tensor, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        """Predictions (N, L, P) for the (N, C, H, W) images as images of the same shape and units, float32."""
        return self.target_generator.to_images(pred, imgs, valid)

    def predict(
        self, inputs: Tensor, data_samples: list | None = None, noise: Tensor | None = None,
        sample_idx: Tensor | None = None, valid: Tensor | None = None,
    ) -> list[dict]:
        """Reconstruct held-out images under masks that never change.

        Returns N dicts: `loss`, `patch_mean` and `interpolation` (masked loss of the model and of two baselines that
        learn nothing, scalars, float32), `flat` (share of the masked patches that these three leave out: those without
        data, and flat ones, see `flat_patches`), `reconstruction` (C, H, W) float32 in units of `inputs`, `mask` (L,)
        bool.
        """
        if noise is None:
            numbers = range(len(inputs)) if sample_idx is None else sample_idx.tolist()
            noise = fixed_noise(numbers, math.prod(self.grid(inputs))).to(inputs.device)
        pred, mask = self.reconstruct(inputs, noise)
        with torch.autocast(inputs.device.type, enabled=False):
            judged = mask
            if getattr(self.target_generator, 'norm_pix_loss', False):
                judged = mask & ~flat_patches(inputs, self.patch_size, valid)
            if valid is not None:
                judged = judged & with_data(valid, self.patch_size, self.target_generator.min_valid)
            errors = self.target_generator.errors(pred, self.target(inputs, valid), valid)
            losses, patch_mean, interpolation = (
                masked_means(each, judged) for each in (errors, *self.target_generator.baselines(inputs, mask, valid)))
        columns = dict(
            loss=losses, patch_mean=patch_mean, interpolation=interpolation, flat=1 - judged.sum(1) / mask.sum(1),
            reconstruction=self.to_images(pred, inputs, valid), mask=mask)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@MODELS.register_module()
class MAE(MaskedAutoencoder):
    """Masked autoencoder as an mmpretrain self-supervised algorithm.

    Args:
        backbone: config of `mae_mm.ViT`; its `out_type` is 'raw' here.
        neck: config of `mae_mm.MAEDecoder`; what it must know of the encoder is filled in.
        mask_ratio: fraction of patches hidden, in (0, 1).
        norm_pix_loss: whether each target patch is normalised by its own mean and deviation.
        mask_sampling: which patches to hide: 'random', 'block' (as BEiT) or 'grid' (three of each 2x2; ratio 0.75).
        mask_token: whether the encoder sees mask tokens in place of hidden patches ([M] in Table 1c): slower, worse.
        loss_on: 'masked' patches, or 'all'.
        loss_type: 'l2' (squared differences of pixels) or 'l1' (absolute ones).
        target: config of `mae_mm.PCATarget` or `mae_mm.TokenTarget`, in place of pixels, without `norm_pix_loss`.
        data_preprocessor: `mae_mm.ImagePreprocessor` or one of mmpretrain's.
    """

    def __init__(
        self, backbone: dict, neck: dict, mask_ratio: float = 0.75, norm_pix_loss: bool = True,
        mask_sampling: str = 'random', mask_token: bool = False, loss_on: str = 'masked', loss_type: str = 'l2',
        target: dict | None = None, data_preprocessor: dict | nn.Module | None = None, init_cfg: dict | None = None,
    ) -> None:
        backbone = MODELS.build(backbone)
        if backbone.out_type != 'raw':
            raise ValueError(f"backbone.out_type={backbone.out_type!r} must be 'raw', the default, in pre-training")
        if target and loss_type != 'l2':
            raise ValueError(f'loss_type={loss_type!r} is for pixels, not for a target of type {target["type"]}')
        target = target or dict(type=PixelTarget, norm_pix_loss=norm_pix_loss, loss_type=loss_type)
        target = MODELS.build(dict(patch_size=backbone.patch_size, in_chans=backbone.in_chans, **target))
        encoder = dict(encoder_dim=backbone.embed_dim, grid_size=backbone.grid_size, num_values=target.num_values)
        neck = MODELS.build({**encoder, **neck})
        super().__init__(backbone, neck, target, mask_ratio, mask_sampling, loss_on, data_preprocessor, init_cfg)
        if not self.neck.predicts_all and (mask_sampling != 'random' or mask_token or loss_on == 'all'):
            raise ValueError(
                f'{type(self.neck).__name__} predicts a part of the masked patches, drawn at random: it needs '
                "mask_sampling='random', mask_token=False and loss_on='masked'")
        self.norm_pix_loss = norm_pix_loss
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim)) if mask_token else None
        # Pre-training keeps the sine-cosine table; transfers may train it.
        self.backbone.pos_embed.requires_grad_(False)

    def init_weights(self) -> None:
        if self.mask_token is not None and not self.is_init:
            nn.init.normal_(self.mask_token, std=0.02)
        super().init_weights()

    def reconstruct(self, imgs: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Hide patches, encode the rest, predict all; the patches with the lowest scores stay visible."""
        tokens, grid = self.backbone.embed(imgs), self.grid(imgs)  # (N, L, D)
        patch_mask = self.draw_mask(imgs, noise)
        ids_seen = patch_mask.ids_keep
        if self.mask_token is not None:  # [M] in the encoder: all L tokens, the visible ones first
            hidden = (self.mask_token + self.backbone.positions(grid)).to(tokens.dtype)
            tokens, ids_seen = tokens.where(~patch_mask.mask[..., None], hidden), patch_mask.ids_restore.argsort(1)
        latent = self.backbone.encode(take(tokens, ids_seen))  # (N, 1 + K, D)
        return Reconstruction(self.neck(latent, patch_mask.ids_restore, grid), self.neck.predicted(patch_mask))
