"""The classification head."""

import torch
from mmpretrain.models.heads import LinearClsHead as _LinearClsHead
from torch import Tensor

from mae_mm.registry import MODELS


@MODELS.register_module()
class LinearClsHead(_LinearClsHead):
    """mmpretrain's linear head in float32 under any autocast: PyTorch's softmax follows bfloat16 logits on the CPU."""

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Classify the last of the features: (N, D) -> (N, number of classes) float32."""
        with torch.autocast(feats[-1].device.type, enabled=False):
            return super().forward((feats[-1].float(), ))
