"""Stop on a signal: finish the step, write a checkpoint, print how to continue."""

import os
import signal
import time
from types import FrameType

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.engine.hooks.checkpoint import checkpoint_hook
from mae_mm.registry import HOOKS
from mae_mm.stopping import EXIT_PREEMPTED, leave

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME = 2.0  # seconds within which two signals are one: a terminal, torchrun and Slurm each pass it on


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, SIGINT or SIGUSR1 write a checkpoint and end the process with code 75; on a second one end at once.

    Several processes agree every `interval` iterations whether to stop, and whether a checkpoint is due.
    """

    priority = 'LOWEST'  # when the iteration is complete, the schedule's step included

    def __init__(self, interval: int = 5) -> None:
        self.interval = interval
        self.signal, self.signalled_at, self.group = None, 0.0, None

    def before_train(self, runner: Runner) -> None:
        self.runner = runner
        if self.group is None and get_world_size() > 1 and dist.get_backend() != 'gloo':
            self.group = self._group_on_cpu()
        if not getattr(self, 'before', None):
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _group_on_cpu(self) -> dist.ProcessGroup | None:
        """All processes through gloo, which does not use the GPU; None, the group of the GPUs, if one cannot join."""
        group, error = None, ''
        try:
            group = dist.new_group(backend='gloo')
        except RuntimeError as failure:
            error = f': {failure}'
        joined = torch.tensor(group is not None, dtype=torch.uint8, device=get_device())
        dist.all_reduce(joined, dist.ReduceOp.MIN)
        if joined:
            return group
        self.runner.logger.warning(
            f'the nodes do not reach each other through gloo{error}; set GLOO_SOCKET_IFNAME to the network interface '
            'that joins them (ip address). Until then processes agree to stop through NCCL, which waits for the GPU')
        return None

    def after_train(self, runner: Runner) -> None:
        """Restore the previous handlers."""
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
        hook = checkpoint_hook(runner)
        flags = torch.tensor([self.signal is not None, hook is not None and hook.is_late()], dtype=torch.uint8)
        if get_world_size() > 1:
            if (runner.iter + 1) % self.interval:
                return
            if self.group is None and dist.get_backend() != 'gloo':
                flags = flags.to(get_device())
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.group)
        if hook and flags.any():
            hook.write_between(runner, runner.iter + 1)
        if flags[0]:
            self._stop(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop; the checkpoint was written before the validation, which the next run repeats."""
        if getattr(self, 'before', None) and self.signal is not None:
            self._stop(runner)

    def _stop(self, runner: Runner) -> None:
        self.after_train(runner)
        runner.logger.warning(
            f'stopped at iteration {runner.iter}, exit code {EXIT_PREEMPTED}; the same command with --resume continues')
        leave(EXIT_PREEMPTED)
