"""Unreadable images: listed in a file, and tolerated up to a share of the data set."""

import math
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mae_mm.datasets.limits import exceeds_share, printable
from mae_mm.engine.hooks.checkpoint import checkpoint_hook
from mae_mm.registry import HOOKS
from mae_mm.stopping import TrainingStopped

AS_BYTES = dict(encoding='utf-8', errors='surrogateescape')  # names of files are bytes


@HOOKS.register_module()
class BadDataHook(Hook):
    """List images that could not be read in `bad_images.txt` of the work folder; stop when there are too many.

    Each process lists its own, in `bad_images_rank1.txt` and so on; they are counted together. A resumed run continues
    the lists and counts anew. Before the run stops, it writes a checkpoint.

    Args:
        max_share: of the data set that may be unreadable, in [0, 1]. One image always may.
        interval: iterations between two looks at the counts.
    """

    priority = 'LOWEST'  # after the schedule's step: the iteration is complete

    def __init__(self, max_share: float = 0.01, interval: int = 50) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share={max_share} must be a share of the data set, in [0, 1]')
        self.max_share, self.interval = max_share, interval
        self.counts: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        rank = f'_rank{runner.rank}' if runner.rank else ''
        self.file = Path(runner.work_dir) / f'bad_images{rank}.txt'
        resumed = runner.iter and self.file.is_file()
        self.listed = dict.fromkeys(self.file.read_text(**AS_BYTES).splitlines()) if resumed else {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner, runner.train_dataloader.dataset, '', runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._look(runner, runner.train_dataloader.dataset, '', runner.iter)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        if hasattr(self, 'file'):  # inside a training
            self._look(runner, runner.val_dataloader.dataset, 'validation ', runner.iter)

    def _look(self, runner: Runner, dataset: Dataset, kind: str, iteration: int) -> None:
        all_reduce(total := torch.tensor(getattr(dataset, 'num_broken', 0)))
        count = int(total)
        if count == self.counts.get(kind, 0):
            return
        self.counts[kind] = count
        self.listed |= dict.fromkeys(dataset.broken_files())
        self.file.write_text(''.join(f'{path}\n' for path in self.listed), **AS_BYTES)
        of_all = f'{count} of {len(dataset)} {kind}images could not be read'
        note = '; others were evaluated instead' if kind else ''
        runner.logger.warning(f'{of_all} so far, listed in {self.file}{note}')
        if exceeds_share(count, len(dataset), self.max_share):
            if hook := checkpoint_hook(runner):
                hook.write_between(runner, iteration)
            raise TrainingStopped(printable(
                f'{of_all}, more than the tolerated share of {self.max_share:.2%}; listed in {self.file}. Fix '
                'or remove them (python tools/check_dataset.py finds all of them), or tolerate more: --cfg-options '
                f'default_hooks.bad_data.max_share={min(1, math.ceil(150 * count / len(dataset)) / 100):g}; then '
                'continue with --resume'))
