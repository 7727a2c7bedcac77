"""Checkpoints that survive: complete or not there, inside epochs too, and never the last good one deleted."""

import inspect
import time
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mae_mm.checkpoint.files import PARTIAL, write_beside
from mae_mm.engine.hooks.nonfinite import NonFiniteHook
from mae_mm.engine.resume import BETWEEN
from mae_mm.registry import HOOKS
from mae_mm.stopping import TrainingStopped

STATES = 'rank_states'  # of hooks, in the message hub


class AtomicBackend(LocalBackend):
    """Local files, each of them the old one or the new one whenever the machine stops."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            TrainingStopped: if they cannot be written, a full disk above all; what was there before still is.
        """
        try:
            write_beside(filepath, lambda partial: partial.write_bytes(obj))
        except OSError as error:
            raise TrainingStopped(
                f'cannot write the checkpoint {filepath} ({len(obj) / 1e9:.2f} GB): {error.strerror or error}. The '
                'checkpoints written before are intact; make room, then the same command with --resume goes on'
            ) from error


register_backend('mae_mm.AtomicBackend', AtomicBackend)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, with checkpoints that are complete or not there, and some between the regular ones.

    A checkpoint is written beside its name, flushed and renamed. Only then are older ones deleted, so that there are
    `max_keep_ckpts` at all times. Between the regular ones `latest.pth` is written, for a run that is stopped: every so
    many minutes, before a validation, and on request; the next regular one takes its place. Weights that are not finite
    are never written, nor, before the training's end, any in the middle of several steps that were not: the newest
    checkpoint is one to go back to.

    A hook with `rank_state()`, plain data of this process, gets it back in `load_rank_state(state)` after a resume.

    Args:
        minutes: from one checkpoint to the next, where epochs (or `interval`) take longer; `PreemptionHook` looks at
            the clock.
        options: as in mmengine.
    """

    def __init__(self, *args, minutes: float = 30, **options) -> None:
        for name in options.keys() - inspect.signature(MMEngineCheckpointHook).parameters.keys():
            # mmengine's would accept it, and fail when it writes the first checkpoint.
            raise TypeError(f'CheckpointHook.__init__() got an unexpected keyword argument {name!r}')
        if '://' not in str(options.get('out_dir')):
            options.setdefault('backend_args', dict(backend='mae_mm.AtomicBackend'))
        super().__init__(*args, **options)
        self.minutes = minutes

    def before_train(self, runner: Runner) -> None:
        """Find the place, clear it of what killed runs left unfinished, and give hooks the states that they had."""
        super().before_train(runner)
        states = runner.message_hub.get_info(STATES, [])
        if runner.iter and len(states) == get_world_size():
            for hook in runner.hooks:
                if type(hook).__name__ in states[get_rank()]:
                    hook.load_rank_state(states[get_rank()][type(hook).__name__])
        self.place, self.written_at = runner.iter or None, time.monotonic()  # what was resumed from is there
        if is_main_process():
            for partial in Path(self.out_dir).glob(f'*{PARTIAL}'):
                partial.unlink(missing_ok=True)

    def is_late(self) -> bool:
        """Whether the last checkpoint was written too long ago."""
        return time.monotonic() - self.written_at > 60 * self.minutes

    def before_val(self, runner: Runner) -> None:
        """Write what a validation that does not end would lose."""
        if hasattr(self, 'place') and runner.iter:  # inside a training
            self.write_between(runner, runner.iter)

    def write_between(self, runner: Runner, iteration: int) -> None:
        """Write `latest.pth` after so many iterations, unless a checkpoint of this very place is there."""
        if self.place != iteration:
            self._write(runner, BETWEEN, dict(epoch=runner.epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write first, delete later."""
        name = self.filename_tmpl.format(step)
        if self._write(runner, name, meta) and self.max_keep_ckpts > 0 and is_main_process():
            before, after = self.filename_tmpl.split('{}')
            numbers = [
                path.name.removeprefix(before).removesuffix(after) for path in Path(self.out_dir).glob(
                    f'{before}*{after}')]
            steps = sorted(int(number) for number in numbers if number.isdigit() and int(number) <= step)
            for old in steps[:-self.max_keep_ckpts]:
                (Path(self.out_dir) / self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _write(self, runner: Runner, name: str, meta: dict) -> bool:
        """Write a checkpoint that one can go back to; whether it was written."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        bad_steps = next((hook.count(runner) for hook in runner.hooks if isinstance(hook, NonFiniteHook)), 0)
        if bad_steps > 1 and meta['iter'] < runner.max_iters:  # a single one is the fault of its images
            runner.logger.error(f'{bad_steps} steps in a row were not finite: {name} is not written')
            return False
        if not weights_are_finite(model):
            runner.logger.error(f'weights are not finite: {name} is not written, the last good checkpoint stays')
            return False
        meta = dict(meta)
        states = {type(hook).__name__: hook.rank_state() for hook in runner.hooks if hasattr(hook, 'rank_state')}
        runner.message_hub.update_info(STATES, all_gather_object(states))
        path = str(Path(self.out_dir) / name)
        runner.message_hub.update_info('last_ckpt', path)
        runner.save_checkpoint(
            self.out_dir, name, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
            meta=meta, by_epoch=self.by_epoch, backend_args=self.backend_args, **self.args)
        self.last_ckpt, self.place, self.written_at = path, meta['iter'], time.monotonic()
        if is_main_process():
            write_beside(
                Path(runner.work_dir) / 'last_checkpoint', lambda partial: partial.write_text(path))
            if name != BETWEEN:
                (Path(self.out_dir) / BETWEEN).unlink(missing_ok=True)
        barrier()  # whoever leaves now may take the others along
        return True


def weights_are_finite(model: torch.nn.Module) -> bool:
    """Whether no floating-point weight or buffer of a model is infinite or not a number."""
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point())


def checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    """The hook of a run that writes checkpoints between the regular ones, where it has it."""
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
