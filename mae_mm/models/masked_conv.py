"""The convolutional variant: hidden pixels, any convolutional backbone, transposed convolutions, L1.

Not in the MAE paper (`ours`): a convolution has no tokens to leave out, so the encoder sees the whole image, with the
hidden pixels in the mean colour. Pixels are hidden in patches, a fixed number of them, or each by itself.
"""

from itertools import pairwise

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mae_mm.models.mae import MaskedAutoencoder, Reconstruction
from mae_mm.models.masking import SAMPLERS
from mae_mm.models.patches import patchify
from mae_mm.models.targets import PixelTarget
from mae_mm.registry import MODELS


@MODELS.register_module()
class ConvDecoder(BaseModule):
    """Feature map to image: a transposed convolution for each halving of the resolution, then 3x3 to pixels.

    Args:
        stride: pixels of the image for one of the map, a power of 2.
        embed_dim: channels after the first layer; each one halves them, down to 16.
    """

    def __init__(
        self, in_channels: int, stride: int = 32, embed_dim: int = 512, in_chans: int = 3, init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or [
            dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d']),
            dict(type='Constant', val=1, layer='BatchNorm2d')])
        self.stride = stride
        widths = [in_channels, *(max(embed_dim >> i, 16) for i in range(stride.bit_length() - 1))]
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], in_chans, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, C, `stride` * h, `stride` * w)."""
        return self.layers(x)


@MODELS.register_module()
class MaskedConv(MaskedAutoencoder):
    """Masked autoencoder of convolutions, as an mmpretrain self-supervised algorithm.

    Its `backbone.*` weights start the same backbone in mmpretrain and mmdet: `--pretrained`, or there
    `init_cfg=dict(type='mae_mm.PretrainedConv', checkpoint=…)`.

    Args:
        backbone: config of a convolutional backbone of mmpretrain; the last of its feature maps is decoded.
        neck: config of `mae_mm.ConvDecoder`. Other arguments are those of `mae_mm.MAE`.
        mask_sampling: as of `mae_mm.MAE`; or 'pixel', each pixel hidden by itself with the probability `mask_ratio`, so
            their number varies; this needs `patch_size=1` and `norm_pix_loss=False`.
    """

    samplers = (*SAMPLERS, 'pixel')

    def __init__(
        self, backbone: dict, neck: dict, patch_size: int = 32, in_chans: int = 3, mask_ratio: float = 0.6,
        mask_sampling: str = 'random', loss_on: str = 'masked', loss_type: str = 'l1', norm_pix_loss: bool = False,
        data_preprocessor: dict | nn.Module | None = None, init_cfg: dict | None = None,
    ) -> None:
        target = PixelTarget(patch_size, in_chans, norm_pix_loss, loss_type)
        super().__init__(
            MODELS.build(backbone), MODELS.build(dict(in_chans=in_chans, **neck)), target, mask_ratio, mask_sampling,
            loss_on, data_preprocessor, init_cfg)
        if mask_sampling == 'pixel' and (patch_size != 1 or norm_pix_loss):
            raise ValueError(
                "mask_sampling='pixel' hides single pixels: it needs patch_size=1 and norm_pix_loss=False, got "
                f'patch_size={patch_size}, norm_pix_loss={norm_pix_loss}')

    def reconstruct(self, imgs: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Hide pixels, encode the whole image, decode it; `noise` must be uniform in [0, 1) for 'pixel' masks."""
        if self.mask_sampling == 'pixel':
            mask = self.draw_noise(imgs, noise, imgs.device) < self.mask_ratio
        else:
            mask = self.draw_mask(imgs, noise).mask
        pred = self.neck(self.backbone(hide_pixels(imgs, mask, self.patch_size))[-1])
        if pred.shape != imgs.shape:
            raise ValueError(
                f'images of {tuple(imgs.shape[1:])} (channels, height, width) were decoded to {tuple(pred.shape[1:])}: '
                f"set neck.stride={self.neck.stride} to the stride of the backbone's last map, and the image's sides "
                'to multiples of it')
        return Reconstruction(patchify(pred, self.patch_size), mask)


def hide_pixels(imgs: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Set the pixels of masked patches, (N, L) bool, to 0, the mean colour of normalised (N, C, H, W) images."""
    rows, cols = (side // patch_size for side in imgs.shape[2:])
    pixels = mask.view(-1, 1, rows, cols).repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    return torch.where(pixels, torch.zeros_like(imgs), imgs)
