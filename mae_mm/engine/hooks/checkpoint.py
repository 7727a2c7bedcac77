"""Checkpoints that survive: complete or absent, also inside epochs, and the last good one is never deleted."""

import inspect
import re
import time
from pathlib import Path

from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mae_mm.checkpoint.files import PARTIAL, write_beside
from mae_mm.engine.hooks.nonfinite import NonFiniteHook
from mae_mm.engine.resume import BETWEEN
from mae_mm.registry import HOOKS
from mae_mm.stopping import TrainingStopped

STATES = 'rank_states'  # of hooks, in the message hub


class AtomicBackend(LocalBackend):
    """Local files that are replaced as a whole: whenever the machine stops, each is the old one or the new one."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; TrainingStopped if that fails, for example on a full disk. The old file stays."""
        try:
            write_beside(filepath, lambda partial: partial.write_bytes(obj))
        except OSError as error:
            raise TrainingStopped(
                f'cannot write the checkpoint {filepath} ({len(obj) / 1e9:.2f} GB): {error.strerror or error}. The '
                'checkpoints written before are intact; make room, then the same command with --resume continues'
            ) from error


register_backend('mae_mm.AtomicBackend', AtomicBackend)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, with checkpoints that are complete or absent, and `latest.pth` between the regular ones.

    A checkpoint is written to a temporary file, flushed and renamed. Only then are older ones deleted, so that there
    are `max_keep_ckpts` at all times. `latest.pth` is written when a run is stopped, before a validation, and every
    `minutes`; the next regular checkpoint replaces it. Weights that are not finite, or after several skipped steps in
    a row, are not written. A hook with `rank_state()`, plain data of this process, gets it back in
    `load_rank_state(state)` after a resume.
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
        super().before_train(runner)
        states = runner.message_hub.get_info(STATES, [])
        if runner.iter and len(states) == get_world_size():
            for hook in runner.hooks:
                if state := states[get_rank()].get(type(hook).__name__):
                    hook.load_rank_state(state)
        self.place, self.written_at = runner.iter or None, time.monotonic()  # what was resumed from is there
        if is_main_process():
            for partial in Path(self.out_dir).glob(f'*{PARTIAL}'):  # of killed runs
                partial.unlink(missing_ok=True)

    def is_late(self) -> bool:
        """Whether the last checkpoint was written too long ago."""
        return time.monotonic() - self.written_at > 60 * self.minutes

    def before_val(self, runner: Runner) -> None:
        if hasattr(self, 'place') and runner.iter:  # inside a training
            self.write_between(runner, runner.iter)

    def write_between(self, runner: Runner, iteration: int) -> None:
        """Write `latest.pth` after so many iterations, unless a checkpoint of this iteration exists."""
        if self.place != iteration:
            self._write(runner, BETWEEN, dict(epoch=runner.epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write first, then delete."""
        if self._write(runner, self.filename_tmpl.format(step), meta) and self.max_keep_ckpts > 0 and is_main_process():
            pattern = re.escape(self.filename_tmpl).replace(r'\{\}', r'(\d+)')
            found = [(int(match[1]), path) for path in Path(self.out_dir).iterdir()
                     if (match := re.fullmatch(pattern, path.name)) and int(match[1]) <= step]
            for _, old in sorted(found)[:-self.max_keep_ckpts]:
                old.unlink(missing_ok=True)

    def _write(self, runner: Runner, name: str, meta: dict) -> bool:
        """Write a checkpoint that a run can return to; returns whether it was written."""
        bad_steps = next((hook.count(runner) for hook in runner.hooks if isinstance(hook, NonFiniteHook)), 0)
        if bad_steps > 1 and meta['iter'] < runner.max_iters:  # a single one is due to its images
            runner.logger.error(f'{bad_steps} steps in a row were not finite: {name} is not written')
            return False
        weights = [value for value in runner.model.state_dict().values() if value.is_floating_point()]
        if not all(bool(value.isfinite().all()) for value in weights):
            runner.logger.error(f'weights are not finite: {name} is not written, the last good checkpoint stays')
            return False
        states = {type(hook).__name__: hook.rank_state() for hook in runner.hooks if hasattr(hook, 'rank_state')}
        runner.message_hub.update_info(STATES, all_gather_object(states))
        path = str(Path(self.out_dir) / name)
        runner.message_hub.update_info('last_ckpt', path)
        runner.save_checkpoint(
            self.out_dir, name, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
            meta=dict(meta), by_epoch=self.by_epoch, backend_args=self.backend_args, **self.args)
        self.last_ckpt, self.place, self.written_at = path, meta['iter'], time.monotonic()
        if is_main_process():
            write_beside(Path(runner.work_dir) / 'last_checkpoint', lambda partial: partial.write_text(path))
            if name != BETWEEN:
                (Path(self.out_dir) / BETWEEN).unlink(missing_ok=True)
        barrier()  # a process that ends now may end the others
        return True


def checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    """The run's `mae_mm.CheckpointHook`, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
