"""Necks from the single scale of a plain ViT to the four or five scales of detectors and segmentors.

Scales are relative to the patch: with 16-px patches the strides are 4, 8, 16, 32 (and 64).
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mae_mm.registry import MODELS

MODELS.register_module(module=LayerNorm2d)  # for mmdet's heads: norm_cfg=dict(type='mae_mm.LayerNorm2d', eps=1e-6)


@MODELS.register_module()
class FourTapPyramid(BaseModule):
    """MAE's adapter: four taps of the ViT become four scales (arXiv:2111.06377, appendix A.3, and arXiv:2111.11429).

    The taps are `out_indices` of `mae_mm.ViT(out_type='featmap')`, one at the end of each quarter of the blocks. The
    first is enlarged 4 times by two transposed convolutions with GroupNorm (one group) and GELU between them, the
    second twice by one transposed convolution, the third is unchanged, the fourth is halved by 2x2 max pooling.
    """

    def __init__(self, embed_dim: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.scales = nn.ModuleList([
            nn.Sequential(_double(embed_dim, embed_dim), nn.GroupNorm(1, embed_dim), nn.GELU(),
                          _double(embed_dim, embed_dim)),
            _double(embed_dim, embed_dim),
            nn.Identity(),
            nn.MaxPool2d(2),
        ])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four (N, D, h, w) -> (N, D, 4h, 4w), (N, D, 2h, 2w), (N, D, h, w), (N, D, h // 2, w // 2)."""
        return tuple(scale(x) for scale, x in zip(self.scales, maps, strict=True))


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """ViTDet's simple feature pyramid: all scales from the last map (arXiv:2203.16527, section 3 and appendix A.1).

    Each scale: (transposed) convolutions, then 1x1 and 3x3 convolutions with LayerNorm after each. One more scale is
    the last, subsampled, for the region proposals. `scale_factors` are rows of each scale per row of the ViT's map: of
    4, 2, 1 and 0.5, descending. Without the 4, a ViT of 8-px patches gives strides 4, 8, 16.
    """

    def __init__(
        self, embed_dim: int, out_channels: int = 256, scale_factors: Sequence[float] = (4, 2, 1, 0.5),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        half, quarter = embed_dim // 2, embed_dim // 4
        resize = {
            4: (nn.Sequential(_double(embed_dim, half), LayerNorm2d(half), nn.GELU(), _double(half, quarter)), quarter),
            2: (_double(embed_dim, half), half),
            1: (nn.Identity(), embed_dim),
            0.5: (nn.MaxPool2d(2), embed_dim),
        }
        self.scales = nn.ModuleList(
            nn.Sequential(
                layer, nn.Conv2d(width, out_channels, 1, bias=False), LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels))
            for layer, width in (resize[factor] for factor in scale_factors))
        self.subsample = nn.MaxPool2d(1, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """A sequence whose last is (N, D, h, w) -> (N, C, …) of 4h, 2h, h, h // 2 and (h // 2 + 1) // 2 rows."""
        scales = [scale(maps[-1]) for scale in self.scales]
        return (*scales, self.subsample(scales[-1]))


@MODELS.register_module()
class BatchNormMaps(BaseModule):
    """A BatchNorm without affine for each map, as in MAE's linear probing of the class token (appendix A.1)."""

    def __init__(self, embed_dim: int, num_maps: int = 1, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.norms = nn.ModuleList(nn.BatchNorm2d(embed_dim, eps=1e-6, affine=False) for _ in range(num_maps))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(norm(x) for norm, x in zip(self.norms, maps, strict=True))


def _double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
