"""torch.compile of the transformer blocks."""

import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mae_mm.models.attention import Block
from mae_mm.models.decoders import CrossBlock
from mae_mm.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile every block of encoder and decoder, for the one shape that training has.

    Blocks of a stack share one compilation, parameters keep their names, and everything around the blocks stays
    uncompiled, as does validation. Where torch.compile does not work, for example because there is no C++ compiler, the
    log says so in one line and training continues without it.

    Use: `--cfg-options default_hooks.compile.type=mae_mm.CompileHook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Compile; the work is done in the first iteration."""
        blocks = [module for module in runner.model.modules() if isinstance(module, Block | CrossBlock)]
        reason = why_not(next(runner.model.parameters()).device)
        if reason:
            print_log(
                f'torch.compile does not work here, training continues without it: {reason}', 'current',
                logging.WARNING)
            return
        for block in blocks:
            block.compile(dynamic=False)
        print_log(f'{len(blocks)} blocks are compiled in the first iteration, which may take minutes', 'current')

    def before_val_epoch(self, runner: Runner) -> None:
        """Do not compile for the shapes of validation."""
        torch.compiler.set_stance('force_eager')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Use the compiled blocks again."""
        torch.compiler.set_stance('default')


def why_not(device: torch.device) -> str:
    """Try torch.compile on a sum; the first line of its error, or an empty string."""
    try:
        torch.compile(lambda x: (2 * x + 1).sum(), dynamic=False)(torch.ones(64, device=device))
    except Exception as error:  # of the compiler, its cache, its toolchain
        return f'{type(error).__name__}: {str(error).strip().splitlines()[0]}'
    return ''
