"""mmengine's training loops, resumable at any iteration.

Random numbers of an iteration depend on (seed, data order, rank, iteration), those of a sample on (seed, data order,
rank, epoch, batch, place): a resumed run restores nothing but its place.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import build_dataset, build_loader, check_shared_memory
from mae_mm.engine.loops.seeding import derive_seed, seed_all
from mae_mm.engine.resume import newest_checkpoint
from mae_mm.registry import LOOPS
from mae_mm.stopping import RollBack, TrainingStopped


class _Resumable:
    """What both loops share. Checkpoints keep `data_order`, the number of returns to one, in their message hub."""

    def _prepare(self, runner: Runner, config: dict) -> DataLoader:
        self._runner, self._loader_config, self._built_for = runner, config, None
        self._gone_back_to: set[Path] = set()
        self._dataset = build_dataset(config['dataset'])
        return self._loader()

    def _loader(self) -> DataLoader:
        """The loader for the current seed and data order, rebuilt only if they have changed."""
        seed = [self.runner.seed]
        broadcast_object_list(seed)  # of rank 0: others may differ (diff_rank_seed)
        self.data_order = self.runner.message_hub.get_info('data_order', 0)
        built_for = seed[0], self.data_order
        if self._built_for != built_for:
            self._built_for = built_for
            self._seed = derive_seed(*built_for) % 2**31 if self.data_order else seed[0]
            return build_loader(self._loader_config, self._dataset, self._seed)
        return self.dataloader

    def run(self):
        """Train; return to a checkpoint whenever a hook requests it."""
        again = False
        check_shared_memory(self.dataloader)
        while True:
            self.dataloader = self._loader()
            try:
                self._run(again)
                self.runner.call_hook('after_train')
                return self.runner.model
            except RollBack as request:
                self._go_back(str(request))
                again = True

    def _go_back(self, reason: str) -> None:
        """Restore the last good checkpoint that was not tried before, and take the images in another order."""
        order, last = self.data_order + 1, self._iter
        found = [newest_checkpoint(self.runner.work_dir, self._gone_back_to) if is_main_process() else None]
        broadcast_object_list(found)
        checkpoint = found[0]
        if checkpoint is None:
            raise TrainingStopped(f'{reason}; no checkpoint was written yet to return to')
        self._gone_back_to.add(checkpoint)
        self.runner.resume(str(checkpoint), map_location='cpu')
        self.runner.message_hub.update_info('data_order', order)
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)
        print_log(
            f'{reason}: back from iteration {last} to {self._iter} ({Path(checkpoint).name}), with data order {order}',
            'current', logging.WARNING)

    def run_iter(self, *args) -> None:
        """Seed, then train one batch."""
        seed_all(derive_seed(self._seed, self.data_order, get_rank(), self._iter))
        super().run_iter(*args)

    def _validate(self, place: int, end: int) -> None:
        """Validate if due after `place` of `end` epochs or iterations."""
        self._decide_current_val_interval()
        due = place >= self.val_begin and (place % self.val_interval == 0 or place == end)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()


@LOOPS.register_module()
class EpochTrainLoop(_Resumable, EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` that resumes inside an epoch, and repeats a validation that was interrupted."""

    def __init__(self, runner: Runner, dataloader: dict, max_epochs: int, **options) -> None:
        super().__init__(runner, self._prepare(runner, dataloader), max_epochs, **options)

    def _run(self, again: bool) -> None:
        start = self._first_batch()
        self.runner.call_hook('before_train')
        if self._iter and not start and not again:
            self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch(start)
            start = 0
            self._validate(self._epoch, self._max_epochs)

    def _first_batch(self) -> int:
        """Number of batches of the epoch that the checkpoint has used."""
        length, hub = len(self.dataloader), self.runner.message_hub
        before = hub.get_info('batches_per_epoch', length)
        hub.update_info('batches_per_epoch', length)
        start = self._iter - self._epoch * length
        if before == length and 0 <= start <= length:
            return start
        inside = self._iter != self._epoch * before
        if inside or before != length:
            print_log(
                f'an epoch had {before} batches when the checkpoint was written and has {length} now: the steps are '
                'counted anew' + f', epoch {self._epoch + 1} starts from its beginning' * inside,
                'current', logging.WARNING)
        self._iter = self._epoch * length
        return 0

    def run_epoch(self, start: int = 0) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.batch_sampler.go_to(self._epoch, start)
        for idx, data_batch in enumerate(self.dataloader, start):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class IterTrainLoop(_Resumable, IterBasedTrainLoop):
    """`IterBasedTrainLoop` that resumes without reading used images again."""

    def __init__(self, runner: Runner, dataloader: dict, max_iters: int, **options) -> None:
        loader = self._prepare(runner, dataloader)
        # IterBasedTrainLoop starts the workers of its loader now, before the first batch is known.
        unread = DataLoader(loader.dataset, generator=torch.Generator())
        super().__init__(runner, unread, max_iters, **options)
        self.dataloader = loader

    def _run(self, again: bool) -> None:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter and not again:
            self._validate(self._iter, self._max_iters)
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')

    def _batches(self) -> Iterator[dict]:
        batches, length = self.dataloader.batch_sampler, len(self.dataloader)
        epoch, start = (0, self._iter) if isinstance(batches.sampler, InfiniteSampler) else divmod(self._iter, length)
        while True:
            batches.go_to(epoch, start)
            yield from self.dataloader
            epoch, start = epoch + 1, 0
