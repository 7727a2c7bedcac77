"""Fully sharded data parallel: weights, gradients and optimizer state spread over all processes."""

import os
from collections.abc import Callable

import torch
from mmengine._strategy import FSDPStrategy as MMEngineStrategy
from mmengine._strategy.base import BaseStrategy
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner.checkpoint import _load_checkpoint
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from mae_mm.checkpoint.files import load_torch
from mae_mm.models.attention import Block
from mae_mm.models.decoders import CrossBlock
from mae_mm.registry import STRATEGIES

FROM_MAIN = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineStrategy):
    """mmengine's strategy for FlexibleRunner, fixed for 0.10.7 and adapted to this model; runs on CPUs, too (gloo).

    A checkpoint is one file with the model's own names and shapes, and resumes on any number of processes. Parameter
    groups are built from whole parameters; mmengine builds them from flat shards, where weights and biases look alike.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **options) -> None:
        super().__init__(model_wrapper=model_wrapper, **{**options, 'state_dict_cfg': 'full'})

    def prepare(self, model: dict | nn.Module, *, optim_wrapper: dict | None = None, **options) -> tuple:
        """Build the model and sort its parameters into groups before it is sharded; then as in mmengine."""
        if isinstance(optim_wrapper, dict) and not self._prepared:
            if optim_wrapper.get('clip_grad'):
                raise ValueError('optim_wrapper.clip_grad: FSDP would clip by the norm of a shard; remove it')
            model = self.build_model(model)
            optim_wrapper = build_optim_wrapper(model, optim_wrapper)
            if getattr(optim_wrapper, 'dtype', None) == torch.float16:
                raise ValueError('optim_wrapper.dtype: float16 scales its loss, which FSDP does not; use float32')
        return super().prepare(model, optim_wrapper=optim_wrapper, **options)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper, model: nn.Module) -> OptimWrapper:
        """Replace the whole parameters by their shards."""
        shards = {name.replace('_fsdp_wrapped_module.', ''): param for name, param in model.named_parameters()}
        for group in optim_wrapper.optimizer.param_groups:
            group['params'] = [shards[self.id_to_name[id(param)]] for param in group['params']]
        return optim_wrapper

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if is_model_wrapper(model):
            return model
        gpu = torch.cuda.is_available()
        device = torch.device('cuda', int(os.environ['LOCAL_RANK'])) if gpu else torch.device('cpu')
        model.data_preprocessor.to(device)
        return MODEL_WRAPPERS.build(dict(
            dict(type='MMFullyShardedDataParallel', module=model, device_id=device, use_orig_params=True,
                 auto_wrap_policy=ModuleWrapPolicy({Block, CrossBlock})),
            **(self.model_wrapper or {})))

    # mmengine's own leaves out `convert_to_iter_based`.
    _build_param_scheduler = BaseStrategy._build_param_scheduler

    @property
    def _whole(self) -> dcp.StateDictOptions:
        """Whole tensors; from GPUs they go to the memory of the main process only."""
        return dcp.StateDictOptions(full_state_dict=True, cpu_offload=torch.cuda.is_available())

    def model_state_dict(self) -> dict:
        return dcp.get_model_state_dict(self.model, options=self._whole)

    def optim_state_dict(self) -> dict:
        state = dcp.get_optimizer_state_dict(self.model, self.optim_wrapper.optimizer, options=self._whole)
        return dict(state, base_param_settings=self.optim_wrapper.base_param_settings)

    def load_checkpoint(self, filename: str, *, callback: Callable | None = None, **options) -> dict:
        """Read the file in the main process alone; the others get their shards from it, tensor by tensor."""
        self.logger.info(f'Load checkpoint from {filename}')
        if '://' in filename:
            content = _load_checkpoint(filename, 'cpu')  # waits for all processes
        elif is_main_process():
            content = load_torch(filename, mmap=True)
        large = {key: content.pop(key, {}) if is_main_process() else {} for key in ('state_dict', 'optimizer')}
        rest = [content if is_main_process() else None]
        broadcast_object_list(rest)
        checkpoint = dict(rest[0], **large)
        if callback is not None:
            callback(checkpoint)
        self.load_model_state_dict(checkpoint.pop('state_dict'))
        return checkpoint

    def load_model_state_dict(self, state_dict: dict, *, strict: bool = True, revise_keys: object = None) -> None:
        """Give each process its shard of whole weights, which the main process has."""
        try:
            dcp.set_model_state_dict(self.model, state_dict, options=FROM_MAIN)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f'the checkpoint is of another model: {error}') from error

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Give each process its shard of the optimizer state, which the main process has."""
        settings = [state_dict.pop('base_param_settings', None)]
        broadcast_object_list(settings)
        dcp.set_optimizer_state_dict(self.model, self.optim_wrapper.optimizer, state_dict, options=FROM_MAIN)
        if settings[0] is not None:
            self.optim_wrapper.base_param_settings = settings[0]
