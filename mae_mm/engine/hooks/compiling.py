"""torch.compile of the transformer blocks."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mae_mm.models.attention import Block
from mae_mm.models.decoders import CrossBlock
from mae_mm.registry import HOOKS

# Methods around the stacks, by class: importing the classes would import mmpretrain into detectors.
AROUND = dict(ImagePreprocessor=('normalize',), ViT=('embed',), MAEDecoder=('fill_gaps', 'predict'), MAE=('compare',))


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile every block of encoder and decoder for training: `default_hooks.compile.type=mae_mm.CompileHook`.

    Validation stays uncompiled: its shapes differ. Where torch.compile does not work, training continues without it.
    """

    def before_train(self, runner: Runner) -> None:
        if reason := why_not(next(runner.model.parameters()).device):
            runner.logger.warning(f'torch.compile does not work here, training continues without it: {reason}')
        else:
            count = compile_model(runner.model)
            runner.logger.info(f'{count} blocks are compiled in the first iteration, which may take minutes')

    def before_val_epoch(self, runner: Runner) -> None:
        torch.compiler.set_stance('force_eager')

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        torch.compiler.set_stance('default')


def compile_model(model: nn.Module, **options) -> int:
    """Compile every block in place, and the methods in `AROUND`; returns the number of blocks."""
    blocks = [module for module in model.modules() if isinstance(module, Block | CrossBlock)]
    for block in blocks:
        block.compile(dynamic=False, **options)
    for module in model.modules():
        for name in AROUND.get(type(module).__name__, ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=False, **options))
    return len(blocks)


def why_not(device: torch.device) -> str:
    """Try torch.compile on a sum; the first line of its error, or an empty string."""
    try:
        torch.compile(lambda x: (2 * x + 1).sum(), dynamic=False)(torch.ones(64, device=device))
    except Exception as error:  # of the compiler, its cache, its toolchain
        return f'{type(error).__name__}: {str(error).strip().splitlines()[0]}'
    return ''
