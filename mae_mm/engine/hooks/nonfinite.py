"""Losses and gradients that are not finite: counted; too many of them return to a checkpoint or stop the run."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from mae_mm.registry import HOOKS
from mae_mm.stopping import RollBack, TrainingStopped

FILE = 'nonfinite.jsonl'


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Count steps that `GuardedOptimWrapper` skipped; after too many in a row, return to the last good checkpoint.

    The images of each skipped step are listed in `nonfinite.jsonl` of the work folder, one line for each process: all
    processes share the gradients, so any of them may be the cause. A return changes the order of the images. After
    `max_rollbacks` returns, the next series of skipped steps ends the training. The flags of the steps stay on the
    device and are read once in `interval` iterations.

    Args:
        patience: skipped steps in a row that are tolerated.
        max_rollbacks: returns to a checkpoint in the whole training; 0 stops it at once.
        interval: iterations from one reading of the flags to the next.
    """

    def __init__(self, patience: int = 10, max_rollbacks: int = 3, interval: int = 10) -> None:
        if patience < 0 or max_rollbacks < 0 or interval < 1:
            raise ValueError(
                f'patience={patience} and max_rollbacks={max_rollbacks} must be >= 0, interval={interval} >= 1')
        self.patience, self.max_rollbacks, self.interval = patience, max_rollbacks, interval

    def before_train(self, runner: Runner) -> None:
        """Continue the counts of the checkpoint."""
        self.skipped = runner.message_hub.get_info('skipped_steps', 0)
        self.in_a_row = self.longest = runner.message_hub.get_info('skipped_in_a_row', 0)
        self.names: list[str] = []
        self.steps: list[tuple[int, list[str], Tensor]] = []  # iteration, its images, whether it was bad
        self.file = Path(runner.work_dir) / FILE

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Keep the step's flag on the device; read all of them once in an interval."""
        wrapper = runner.optim_wrapper
        if hasattr(wrapper, 'bad_step'):  # AmpOptimWrapper, for example, has no flag, and then no name is needed
            self.names += file_names(data_batch)
            if wrapper.bad_step is not None:  # None while gradients accumulate
                self.steps.append((runner.iter + 1, self.names, wrapper.bad_step))
                self.names = []
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self._look(runner)
            if self.longest > self.patience:
                self._react(runner)
            self.longest = self.in_a_row

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Count what has not been counted yet."""
        if hasattr(self, 'steps'):
            self._look(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def count(self, runner: Runner) -> int:
        """Skipped steps in a row so far; reads the device."""
        if hasattr(self, 'steps'):
            self._look(runner)
        return getattr(self, 'in_a_row', 0)

    def _look(self, runner: Runner) -> None:
        """Read the flags of all steps since the last time at once."""
        flags = torch.stack([bad for *_, bad in self.steps]).tolist() if self.steps else []
        for (iteration, names, _), bad in zip(self.steps, flags, strict=True):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            self.longest = max(self.longest, self.in_a_row)
            if bad:
                self.skipped += 1
                self._record(iteration, names)
        self.steps = []
        runner.message_hub.update_info('skipped_steps', self.skipped)
        runner.message_hub.update_info('skipped_in_a_row', self.in_a_row)

    def _record(self, iteration: int, names: list[str]) -> None:
        line = json.dumps(dict(iter=iteration, rank=get_rank(), images=names)) + '\n'
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())  # one call: lines of several processes do not mix
        finally:
            os.close(descriptor)
        print_log(
            f'iteration {iteration}: loss or gradient not finite, the step is skipped ({self.skipped} so far, '
            f'{self.in_a_row} in a row); its images are listed in {self.file}', 'current', logging.WARNING)

    def _react(self, runner: Runner) -> None:
        reason = f'{self.longest} steps in a row without a finite loss and gradient, by iteration {runner.iter + 1}'
        returns = runner.message_hub.get_info('data_order', 0)
        if returns >= self.max_rollbacks:
            raise TrainingStopped(
                f'{reason}, after {returns} returns to a checkpoint (max_rollbacks={self.max_rollbacks}). The images '
                f'of these batches are listed in {self.file}. If the images are correct, clip gradients: '
                '--resume --cfg-options optim_wrapper.clip_grad.max_norm=1. Or start a new run from the last weights '
                'with a lower lr (a resumed run keeps its lr): --work-dir NEW --cfg-options load_from=CHECKPOINT '
                'optim_wrapper.optimizer.lr=LOWER')
        raise RollBack(reason)


def file_names(batch: dict | None) -> list[str]:
    """Paths of a batch's images, as `mae_mm` data sets and OpenMMLab's data samples hold them."""
    if not isinstance(batch, dict):
        return []
    if 'img_path' in batch:
        return list(batch['img_path'])
    samples = batch.get('data_samples')
    samples = samples if isinstance(samples, Iterable) else []
    return [str(sample.img_path) for sample in samples if hasattr(sample, 'img_path')]
