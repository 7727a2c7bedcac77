"""Optimizer wrappers: steps that are not finite are skipped, forward passes run in mixed precision on any device."""

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mae_mm.models.precision import native_dtype
from mae_mm.registry import OPTIM_WRAPPERS

DTYPES = ('auto', 'bfloat16', 'float16', 'float32')


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
    """`GuardedOptimWrapper` whose forward passes run in mixed precision, on any device.

    Args:
        dtype: 'auto' is the one that `native_dtype` chooses for the device. With 'float16' the loss is scaled, so that
            small gradients do not vanish; 'float32' is no mixed precision.
    """

    def __init__(self, *args, dtype: Literal[DTYPES] = 'auto', **options) -> None:
        super().__init__(*args, **options)
        if dtype not in DTYPES:
            raise ValueError(f'optim_wrapper.dtype={dtype!r} must be one of {", ".join(DTYPES)}')
        device = next(param for group in self.param_groups for param in group['params']).device.type
        self.dtype = native_dtype(device)[0] if dtype == 'auto' else getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler(device, enabled=self.dtype == torch.float16)

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), precision_of(self, model):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs) -> None:
        self.scaler.unscale_(self.optimizer)
        super().step(**kwargs)
        self.scaler.update()

    def state_dict(self) -> dict:
        scale = dict(loss_scaler=self.scaler.state_dict()) if self.scaler.is_enabled() else {}
        return dict(super().state_dict(), **scale)

    def load_state_dict(self, state_dict: dict) -> None:
        if (scale := state_dict.pop('loss_scaler', None)) and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale)
        super().load_state_dict(state_dict)


def precision_of(wrapper: OptimWrapper | dict, model: nn.Module) -> AbstractContextManager:
    """The context in which a training with this wrapper runs the model, for its validation as well."""
    if not isinstance(wrapper, AutocastOptimWrapper) or wrapper.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=wrapper.dtype)
