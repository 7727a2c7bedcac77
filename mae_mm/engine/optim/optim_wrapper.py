"""Optimizer wrappers: steps that are not finite are skipped, forward passes run in bfloat16 on any device."""

from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mae_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """`OptimWrapper` that takes no step on a loss or gradient which is not finite, on any rank.

    The decision stays on the device with fused optimizers, which take it as `found_inf`, as from GradScaler.

    Attributes:
        bad_step: () bool on the device, whether the latest step was skipped; None while gradients accumulate.
        grad_norm: () float on the device, norm of the latest gradient before clipping; None without `clip_grad`.
        reports_norm: whether each step writes that norm into the message hub.
    """

    bad_step: Tensor | None = None
    grad_norm: Tensor | None = None
    reports_norm: bool = True

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Spread a loss that is not finite to all gradients: a gradient may be finite where its loss is not."""
        self.bad_step = None
        super().backward(loss, gradient=torch.where(loss.isfinite(), 1.0, torch.nan).to(loss.dtype), **kwargs)

    def step(self, **kwargs) -> None:
        """Clip if configured, and step if every gradient is finite."""
        params = [param for group in self.param_groups for param in group['params'] if param.grad is not None]
        if not params:
            return super().step(**kwargs)
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            norm = self.grad_norm = self.clip_func(params, **self.clip_grad_kwargs)
            if self.reports_norm:
                self.message_hub.update_scalar('train/grad_norm', float(norm))
        else:
            norm = torch.nn.utils.get_total_norm([param.grad for param in params])
            if self.clip_grad_kwargs:
                self._clip_grad()
        bad = norm.isfinite().logical_not()
        if get_world_size() > 1:  # under DDP all ranks have the same gradients, under FSDP each has its own
            count = bad.float()
            dist.all_reduce(count)
            bad = count > 0
        self.bad_step = bad
        if all(group.get('fused') for group in self.param_groups):
            self.optimizer.found_inf = bad.float()
            self.optimizer.step(**kwargs)
            del self.optimizer.found_inf
        elif not bad:
            self.optimizer.step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(GuardedOptimWrapper):
    """`GuardedOptimWrapper` whose forward passes run in bfloat16, which needs no gradient scaler, on any device."""

    @contextmanager
    def optim_context(self, model: nn.Module):
        device_type = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device_type, dtype=torch.bfloat16):
            yield
