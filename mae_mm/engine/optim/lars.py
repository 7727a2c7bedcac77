"""The optimizer of linear probing."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from mae_mm.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """SGD with momentum and layer-wise adaptive rates (You et al., arXiv:1708.03888), as for MAE's linear probing.

    For a weight w with gradient g, weight decay d and trust coefficient t:
    g' = g + d w;  m <- momentum m + t |w| / |g'| g';  w <- w - lr m. Vectors (biases) take g itself in place of the
    scaled g', and so do weights where a norm is zero. mmpretrain's LARS scales biases too, so that a bias
    that starts from zero stays there, and keeps lr inside m, where a change of lr reaches the step only slowly.
    """

    def __init__(
        self, params: Iterable, lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        super().__init__(
            params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step; no norm leaves the device."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                update = param.grad
                if param.ndim > 1:
                    update = update.add(param, alpha=group['weight_decay'])
                    ratio = group['trust_coefficient'] * param.norm() / update.norm()
                    update = update * torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0)
                state = self.state[param]
                if not state:
                    state['momentum'] = torch.zeros_like(param)
                state['momentum'].mul_(group['momentum']).add_(update)
                param.sub_(state['momentum'], alpha=group['lr'])
        return loss
