"""Unreadable images while a run goes on: listed, and borne up to a share."""

from pathlib import Path

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.registry import HOOKS
from mae_mm.training.stopping import TrainingStopped

FILE = 'bad_images.txt'


@HOOKS.register_module()
class BadDataHook(Hook):
    """List images that could not be read in `bad_images.txt` of the work folder; stop when they are too many.

    Each was replaced by another image where it was met (`mae_mm.ImageFolder`, `SeededSamples`). With several processes
    each lists its own, in `bad_images_rank1.txt` and so on, and stops for its own part of the images.

    Args:
        max_share: of the data set that may be unreadable, in [0, 1]. One image always may.
        interval: iterations between two looks at the counts, which stand in memory shared with the workers.
    """

    def __init__(self, max_share: float = 0.01, interval: int = 50) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f'max_share={max_share} is the share of unreadable images that is borne, in [0, 1]')
        self.max_share, self.interval, self.listed = max_share, interval, 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Look, once in an interval."""
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at what the rest of the epoch met."""
        self._look(runner)

    def _look(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        count = getattr(dataset, 'num_broken', 0)
        if count == self.listed:
            return
        rank = f'_rank{runner.rank}' if runner.rank else ''
        self.file = Path(runner.work_dir) / f'{Path(FILE).stem}{rank}.txt'
        self.file.write_text(''.join(f'{path}\n' for path in dataset.broken_files()))
        runner.logger.warning(f'{count} of {len(dataset)} images could not be read so far, listed in {self.file}')
        self.listed = count
        if count > max(1, self.max_share * len(dataset) / get_world_size()):
            raise TrainingStopped(
                f'{count} of {len(dataset)} images could not be read, more than the share of {self.max_share:.2%} that '
                f'is borne; they are listed in {self.file}. Mend or remove them (python tools/check_dataset.py finds '
                'all at once), or allow more: --cfg-options default_hooks.bad_data.max_share=0.05; then go on with '
                '--resume')
