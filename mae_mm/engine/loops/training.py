"""mmengine's training loops, resumable at any iteration.

Random numbers of an iteration depend on (seed, data order, rank, iteration), those of a sample on (seed, data order,
rank, epoch, batch, place): a resumed run restores nothing but its place. Used images are not read again.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import build_dataset, build_loader
from mae_mm.engine.loops.seeding import derive_seed, seed_all
from mae_mm.engine.resume import newest_checkpoint
from mae_mm.registry import LOOPS
from mae_mm.stopping import RollBack, TrainingStopped


class _Resumable:
    """What both loops share: the loader for a seed and a data order, and returning to a checkpoint.

    `data_order` counts the returns to a checkpoint. Like `batches_per_epoch` it is in the message hub, which mmengine
    saves in every checkpoint and restores from it.
    """

    def _prepare(self, runner: Runner, config: dict | DataLoader) -> DataLoader:
        self._runner, self._loader_config, self._built_for = runner, config, None
        self._gone_back_to: set[Path] = set()
        if isinstance(config, dict):
            self._dataset = build_dataset(config['dataset'])
        return self._loader()

    def _loader(self) -> DataLoader:
        """The loader for the current seed and data order, rebuilt only if they have changed."""
        if not isinstance(self._loader_config, dict):
            raise TypeError(f'{type(self).__name__} builds its loader from a config, got {self._loader_config}')
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
        while True:
            try:
                self._run(again)
                return self.runner.model
            except RollBack as request:
                self._go_back(str(request))
                again = True

    def _go_back(self, reason: str) -> None:
        """Restore the last good checkpoint, and continue with the images in another order.

        A checkpoint that did not help is not tried again while there is an older one: its weights may be finite and
        useless.
        """
        order, last = self.data_order + 1, self._iter
        checkpoint = newest_checkpoint(self.runner.work_dir, self._gone_back_to)
        if checkpoint is None:
            raise TrainingStopped(f'{reason}; no checkpoint was written yet, so there is none to return to')
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

    def _validate(self) -> None:
        """Validate if due."""
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and self._validation_is_due():
            self.runner.val_loop.run()


@LOOPS.register_module()
class EpochTrainLoop(_Resumable, EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` that resumes inside an epoch, and repeats a validation that was interrupted."""

    def __init__(self, runner: Runner, dataloader: dict, max_epochs: int, **options) -> None:
        super().__init__(runner, self._prepare(runner, dataloader), max_epochs, **options)

    def _run(self, again: bool) -> None:
        self.dataloader = self._loader()
        start = self._first_batch()
        self.runner.call_hook('before_train')
        if self._iter and not start and not again:
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch(start)
            start = 0
            self._validate()
        self.runner.call_hook('after_train')

    def _first_batch(self) -> int:
        """Number of batches of the epoch that the checkpoint has used."""
        length, hub = len(self.dataloader), self.runner.message_hub
        before = hub.get_info('batches_per_epoch', length)
        hub.update_info('batches_per_epoch', length)
        start = self._iter - self._epoch * length
        if before == length and 0 <= start <= length:
            return start
        if self._iter != self._epoch * before:
            print_log(
                f'an epoch had {before} batches when the checkpoint was written and has {length} now (other data, '
                f'batch size or number of processes): epoch {self._epoch + 1} starts from its beginning',
                'current', logging.WARNING)
        self._iter = self._epoch * length
        return 0

    def run_epoch(self, start: int = 0) -> None:
        """Train an epoch, from batch `start` on."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.batch_sampler.go_to(self._epoch, start)
        for idx, data_batch in enumerate(self.dataloader, start):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _validation_is_due(self) -> bool:
        return self._epoch >= self.val_begin and (
            self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)


@LOOPS.register_module()
class IterTrainLoop(_Resumable, IterBasedTrainLoop):
    """`IterBasedTrainLoop` that resumes without reading used images again."""

    def __init__(self, runner: Runner, dataloader: dict, max_iters: int, **options) -> None:
        loader = self._prepare(runner, dataloader)
        # IterBasedTrainLoop would start the workers now, before the first batch is known.
        super().__init__(runner, _Unread(loader.dataset), max_iters, **options)
        self.dataloader = loader

    def _run(self, again: bool) -> None:
        self.dataloader = self._loader()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._iter and not again:
            self._validate()
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')

    def _batches(self) -> Iterator[dict]:
        batches, length = self.dataloader.batch_sampler, len(self.dataloader)
        epoch, start = (0, self._iter) if batches.endless else divmod(self._iter, length)
        while True:
            batches.go_to(epoch, start)
            yield from self.dataloader
            epoch, start = epoch + 1, 0

    def _validation_is_due(self) -> bool:
        return self._iter >= self.val_begin and (
            self._iter % self.val_interval == 0 or self._iter == self._max_iters)


class _Unread:
    """Replaces a loader until it is read."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator:
        return iter(())
