"""bfloat16 autocast on any device, for mmengine's optimizer wrapper."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mae_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """`OptimWrapper` whose forward passes run in bfloat16.

    mmengine's `AmpOptimWrapper` refuses the CPU and always builds a gradient scaler, which bfloat16 does not need: it
    has the exponent range of float32. Weights, gradients and the optimizer's state stay float32.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Enter autocast on the model's device, and mmengine's gradient-accumulation context."""
        device_type = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device_type, dtype=torch.bfloat16):
            yield
