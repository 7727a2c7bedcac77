"""Batches of pixels to normalised floats, on the device."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mae_mm.registry import MODELS


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Normalise images of any number of channels. mmengine's own takes one or three.

    NaN, which stands for pixels without data, becomes 0, the mean.

    Args:
        mean, std: one number for each channel, in units of the loaded pixels (0 … 255 for uint8); one number serves
            all channels. ImageNet's by default.
        to_rgb: whether the pipeline delivers BGR (OpenCV), to be converted to RGB; `mae_mm` transforms deliver RGB.
        clip: the lowest and the highest value of each channel, two lists; pixels beyond are cut to them first. With
            percentiles of the data set, a few odd pixels do not matter (tools/pixel_statistics.py prints them).
        per_image: whether each channel of each image is normalised by its own mean and deviation, not by `mean`, `std`.
        host: config of a preprocessor of mmpretrain, mmdet or mmseg, which then pads and handles annotations. Leave
            out its mean and std.
        batch_augments: what mmpretrain's classifier adds; for `host`.
    """

    def __init__(
        self, mean: Sequence[float] = (123.675, 116.28, 103.53), std: Sequence[float] = (58.395, 57.12, 57.375),
        to_rgb: bool = False, clip: tuple[Sequence[float], Sequence[float]] | None = None, per_image: bool = False,
        host: dict | None = None, batch_augments: dict | None = None,
    ) -> None:
        super().__init__(non_blocking=True)  # copies from pinned memory overlap with computation
        self.to_rgb, self.per_image = to_rgb, per_image
        self.host = host and MODELS.build({**host, **(dict(batch_augments=batch_augments) if batch_augments else {})})
        if clip and not (len(clip) == 2 and all(low < high for low, high in zip(*clip, strict=True))):
            raise ValueError(f'clip={clip} must be two lists, the lowest and the highest value of each channel')
        limits = torch.tensor(clip, dtype=torch.float32).view(2, -1, 1, 1) if clip else None
        self.register_buffer('limits', limits, persistent=False)
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device and normalise its `inputs`.

        (N, C, H, W) or a list of (C, H, W), of any type, become (N, C, H, W) float32. Floats may have NaN: `valid`,
        (N, C, H, W) bool, tells where they have not.
        """
        if self.host is None and not isinstance(data['inputs'], Tensor):
            data = {**data, 'inputs': torch.stack(list(data['inputs']))}  # on the CPU: uint16
        batch = self.cast_data(data)
        imgs = batch['inputs']
        if self.host is not None:
            imgs = [self.normalize(self._check(img[None])).nan_to_num(0)[0] for img in imgs]
            return self.host({**batch, 'inputs': imgs}, training)
        if imgs.ndim == 5:  # (N, k, C, H, W): k views of each image become k N images
            imgs = imgs.flatten(0, 1)
        normal = self.normalize(self._check(imgs))
        if not imgs.is_floating_point():
            return {**batch, 'inputs': normal}
        valid = ~normal.isnan()  # infinity is a fault, and the guard against bad steps has to see it
        return {**batch, 'inputs': normal.where(valid, 0), 'valid': valid}

    def _check(self, imgs: Tensor) -> Tensor:
        """Images (N, C, H, W) in RGB; a ValueError if there is not a mean for each channel."""
        clip = 1 if self.limits is None else self.limits.shape[1]
        for name, count in (('mean and std', len(self.mean)), ('clip', clip)):
            if count not in (1, imgs.shape[1]):
                raise ValueError(
                    f'images have {imgs.shape[1]} channels but data_preprocessor has {name} of {count}; give one '
                    'number for each channel, or one for all')
        return imgs.float().flip(1) if self.to_rgb else imgs  # torch does not flip uint16

    def normalize(self, imgs: Tensor) -> Tensor:
        """Pixels (N, C, H, W), any dtype -> float32 with the mean taken off, in units of the deviation."""
        imgs = imgs.float()
        if self.limits is not None:
            imgs = imgs.clamp(*self.limits)
        if not self.per_image:
            return (imgs - self.mean) / self.std
        mean = imgs.nanmean((2, 3), keepdim=True)
        std = (imgs - mean).square().nanmean((2, 3), keepdim=True).sqrt()
        return (imgs - mean) / std.where(std > 0, 1)

    def denormalize(
        self, imgs: Tensor, dtype: torch.dtype = torch.uint8, original: Tensor | None = None,
    ) -> Tensor:
        """Back to pixels to look at: (N, C, H, W) float -> the same shape, uint8.

        Pixels that were not uint8, or have lost their mean and deviation, are stretched as `original` is.
        """
        if self.per_image or dtype != torch.uint8:
            return stretch(imgs, original)
        return (imgs * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)


def stretch(imgs: Tensor, original: Tensor | None = None) -> Tensor:
    """Pixels of any range as uint8: (N, C, H, W), NaN becomes black.

    The 2nd and the 98th percentile of each channel of each `original` (by default `imgs`) become 0 and 255.
    """
    imgs = imgs.float()
    values = (imgs if original is None else original.float()).flatten(2)
    values = values[..., ::max(1, values.shape[2] >> 20)]  # a million pixels are enough
    low, high = values.nanquantile(torch.tensor([0.02, 0.98], device=imgs.device), dim=2)[..., None, None]
    return ((imgs - low) * (255 / (high - low).clamp_min(1e-6))).round().clamp(0, 255).nan_to_num().to(torch.uint8)
