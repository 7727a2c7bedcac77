"""Losses and gradients that are not finite: counted; too many of them return to a checkpoint or stop the run."""

import json
import logging
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from mae_mm.registry import HOOKS
from mae_mm.stopping import RollBack, TrainingStopped


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Count steps that `GuardedOptimWrapper` skipped; after too many in a row, return to the last good checkpoint.

    The images of each skipped step are listed in `nonfinite.jsonl` of the work folder, one line for each process. A
    return changes the order of the images.

    Args:
        patience: skipped steps in a row that are tolerated.
        max_rollbacks: returns in the whole training; the next series of skipped steps ends it.
        interval: iterations between two readings of the flags, which stay on the device.
    """

    def __init__(self, patience: int = 10, max_rollbacks: int = 3, interval: int = 10) -> None:
        self.patience, self.max_rollbacks, self.interval = patience, max_rollbacks, interval

    def before_train(self, runner: Runner) -> None:
        self.skipped = runner.message_hub.get_info('skipped_steps', 0)
        self.in_a_row = self.longest = runner.message_hub.get_info('skipped_in_a_row', 0)
        self.names: list[str] = []
        self.steps: list[tuple[int, list[str], Tensor]] = []  # iteration, its images, whether it was bad
        self.file = Path(runner.work_dir) / 'nonfinite.jsonl'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        wrapper = runner.optim_wrapper
        if hasattr(wrapper, 'bad_step'):  # AmpOptimWrapper, for example, has no flag, and then no name is needed
            self.names += file_names(data_batch)
            if wrapper.bad_step is not None:  # None while gradients accumulate
                self.steps.append((runner.iter + 1, self.names, wrapper.bad_step))
                self.names = []
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self.count(runner)
            if self.longest > self.patience:
                self._react(runner)
            self.longest = self.in_a_row

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.count(runner)
        checkpoint['message_hub'] = runner.message_hub.state_dict()

    def count(self, runner: Runner) -> int:
        """Skipped steps in a row so far; reads the flags of all steps since the last time from the device."""
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
        return self.in_a_row

    def _record(self, iteration: int, names: list[str]) -> None:
        line = json.dumps(dict(iter=iteration, rank=get_rank(), images=names)) + '\n'
        with self.file.open('ab', buffering=0) as file:
            file.write(line.encode())  # one call: lines of several processes do not mix
        print_log(
            f'iteration {iteration}: loss or gradient not finite, the step is skipped ({self.skipped} so far, '
            f'{self.in_a_row} in a row); its images are listed in {self.file}', 'current', logging.WARNING)

    def _react(self, runner: Runner) -> None:
        reason = f'{self.longest} steps in a row without a finite loss and gradient, by iteration {runner.iter + 1}'
        returns = runner.message_hub.get_info('data_order', 0)
        if returns >= self.max_rollbacks:
            raise TrainingStopped(
                f'{reason}, after {returns} returns to a checkpoint (max_rollbacks). {self.file} lists their images. '
                'Clip gradients: --resume --cfg-options optim_wrapper.clip_grad.max_norm=1. Or start with a lower lr: '
                '--work-dir NEW --cfg-options load_from=CHECKPOINT optim_wrapper.optimizer.lr=LOWER')
        raise RollBack(reason)


def file_names(batch: dict | None) -> list[str]:
    """Paths of a batch's images, as `mae_mm` data sets and OpenMMLab's data samples hold them."""
    batch = batch if isinstance(batch, dict) else {}
    samples = batch.get('data_samples') or []
    return batch.get('img_path') or [str(sample.img_path) for sample in samples if hasattr(sample, 'img_path')]
