"""uint8 batches to normalised floats, on the device."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mae_mm.registry import MODELS


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Normalise images of any number of channels. mmengine's own takes one or three.

    Args:
        mean, std: one number for each channel, in units of the loaded pixels (0 … 255 for uint8); one number serves
            all channels. ImageNet's by default.
        to_rgb: whether the pipeline delivers BGR (OpenCV), to be converted to RGB; `mae_mm` transforms deliver RGB.
    """

    def __init__(
        self, mean: Sequence[float] = (123.675, 116.28, 103.53), std: Sequence[float] = (58.395, 57.12, 57.375),
        to_rgb: bool = False,
    ) -> None:
        super().__init__(non_blocking=True)  # copies from pinned memory overlap with computation
        self.to_rgb = to_rgb
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device and normalise its `inputs`.

        (N, C, H, W) or a list of (C, H, W), uint8 or float, become (N, C, H, W) float32.
        """
        batch = self.cast_data(data)
        imgs = batch['inputs']
        imgs = imgs if isinstance(imgs, Tensor) else torch.stack(list(imgs))
        if imgs.ndim == 5:  # (N, k, C, H, W): k views of each image become k N images
            imgs = imgs.flatten(0, 1)
        if len(self.mean) not in (1, imgs.shape[1]):
            raise ValueError(
                f'images have {imgs.shape[1]} channels but data_preprocessor has mean and std of {len(self.mean)}; '
                'give one number for each channel, or one for all')
        if self.to_rgb:
            imgs = imgs.flip(1)
        return {**batch, 'inputs': self.normalize(imgs)}

    def normalize(self, imgs: Tensor) -> Tensor:
        """Pixels (N, C, H, W), any dtype -> float32 with the mean taken off, in units of the deviation."""
        return (imgs.float() - self.mean) / self.std

    def denormalize(self, imgs: Tensor) -> Tensor:
        """Back to pixels: (N, C, H, W) float -> the same shape, uint8."""
        return (imgs * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)
