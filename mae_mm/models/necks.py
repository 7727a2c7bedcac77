"""Necks of a plain ViT: from its single scale to the four or five of detectors and segmentors, and to one vector.

Scales are relative to the patch: with 16-px patches the strides are 4, 8, 16, 32 (and 64).
"""

from collections.abc import Sequence

import torch
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


@MODELS.register_module()
class AttentivePool(BaseModule):
    """Attentive probing: Q learned queries choose among the patch tokens; a linear classifier follows.

    Query q_j attends to the tokens themselves, with weights a_j = softmax(X q_j / sqrt(D)), and sees its own D / Q of
    the values: y_j = V_j X' a_j. There is no projection of queries, keys or outputs (efficient probing, Psomas et al.,
    ICLR 2026, arXiv:2506.10178). A single query needs no V, as the classifier is linear. The BatchNorm without affine
    is that of MAE's linear probing (appendix A.1).

    The tokens are averaged before V_j projects them: the same result for D D multiplications in place of L D D.

    Args:
        num_queries: Q, a divisor of `embed_dim`.
    """

    def __init__(self, embed_dim: int, num_queries: int = 32, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if embed_dim % num_queries:
            raise ValueError(f'num_queries={num_queries} must divide embed_dim={embed_dim}')
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, embed_dim))
        self.values = nn.Linear(embed_dim, embed_dim, bias=False) if num_queries > 1 else None
        self.norm = nn.BatchNorm1d(embed_dim, eps=1e-6, affine=False)

    def attend(self, patches: Tensor) -> Tensor:
        """Weights of each query, which add to 1: (N, L, D) -> (N, Q, L)."""
        return (self.queries @ patches.mT * patches.shape[-1]**-0.5).softmax(-1)

    def pool(self, patches: Tensor) -> Tensor:
        """Patch tokens to one vector: (N, L, D) -> (N, D)."""
        means = self.attend(patches) @ patches  # (N, Q, D)
        if self.values is not None:
            weight = self.values.weight.view(len(self.queries), -1, means.shape[-1])  # (Q, D / Q, D)
            means = torch.einsum('nqd,qed->nqe', means, weight)
        return self.norm(means.flatten(1))

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features of `mae_mm.ViT(out_type='raw')`, the last (N, 1 + L, D) with the class token first -> ((N, D), )."""
        return (self.pool(feats[-1][:, 1:]), )


def _double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
