"""Stop when asked to: finish the step, write a checkpoint, say how to go on."""

import os
import signal
import time
from types import FrameType

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.registry import HOOKS
from mae_mm.training.stopping import EXIT_PREEMPTED, leave

from .checkpoint import checkpoint_hook

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME = 2.0  # seconds within which two signals are one: a terminal, torchrun and Slurm each pass it on


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, SIGINT or SIGUSR1 end the process with code 75 after a checkpoint; on a second one at once.

    All processes stop after the same iteration. With several of them that takes an agreement, on the CPU, which costs
    about 0.1 ms.

    Args:
        interval: iterations from one agreement to the next; a single process stops after the one it is in.
    """

    priority = 'LOWEST'  # when the iteration is complete, the schedule's step included

    def __init__(self, interval: int = 5) -> None:
        self.interval = interval
        self.signal, self.signalled_at = None, 0.0

    def before_train(self, runner: Runner) -> None:
        """Take the signals over."""
        self.group = None
        if get_world_size() > 1 and dist.get_backend() != 'gloo':
            self.group = dist.new_group(backend='gloo')  # asks no GPU
        self.runner = runner
        if not getattr(self, 'before', None):
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self.signalled_at = number, now
            name = signal.Signals(number).name
            self.runner.logger.warning(f'{name}: stopping after this step; the same signal again stops at once')
        elif now - self.signalled_at > SAME:
            os._exit(128 + number)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop with a checkpoint of this place."""
        if self._agreed(runner.iter):
            hook = checkpoint_hook(runner)
            if hook is not None:
                hook.write_between(runner, runner.iter + 1)
            self._stop(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop; the checkpoint was written before the validation, which the next run makes up for."""
        if getattr(self, 'before', None) and self.signal is not None:
            self._stop(runner)

    def _agreed(self, iteration: int) -> bool:
        """Whether any process was asked to stop."""
        if get_world_size() == 1:
            return self.signal is not None
        if (iteration + 1) % self.interval:
            return False
        asked = torch.tensor(int(self.signal is not None))
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.group)
        return bool(asked)

    def _stop(self, runner: Runner) -> None:
        self._restore()
        runner.logger.warning(
            f'stopped at iteration {runner.iter}, exit code {EXIT_PREEMPTED}; the same command with --resume goes on')
        leave(EXIT_PREEMPTED)
