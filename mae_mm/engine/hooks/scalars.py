"""Loss, learning rate and time for the log, read from the device once in an interval, not in every iteration."""

import time

import torch
from mmengine import hooks as mmengine_hooks
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from mae_mm.registry import HOOKS


def is_due(hook: Hook, runner: Runner, batch_idx: int) -> bool:
    """Whether to read: in the iterations that LoggerHook logs, and in the last."""
    logger = next((one for one in runner.hooks if isinstance(one, LoggerHook)), LoggerHook())
    ends = hook.end_of_epoch(runner.train_dataloader, batch_idx) and (
        not logger.ignore_last or len(runner.train_dataloader) <= logger.interval)
    return ends or hook.every_n_inner_iters(batch_idx, logger.interval) or hook.is_last_train_iter(runner)


@HOOKS.register_module()
class RuntimeInfoHook(mmengine_hooks.RuntimeInfoHook):
    """A scalar is the mean over all processes and the iterations since the last reading: `window_size` must be 1."""

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        runner.optim_wrapper.reports_norm = False  # it is added up here
        self.sums, self.count = {}, 0

    def rank_state(self) -> dict:
        return dict(count=self.count, sums={name: float(value) for name, value in self.sums.items()})

    def load_rank_state(self, state: dict) -> None:
        self.count = state['count']
        self.sums = {name: torch.tensor(value, device=get_device()) for name, value in state['sums'].items()}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Update the iteration always, the learning rate only where it is logged."""
        if is_due(self, runner, batch_idx):
            super().before_train_iter(runner, batch_idx, data_batch)
        else:
            runner.message_hub.update_info('iter', runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Add the model's numbers up on its device; read them when due."""
        outputs = dict(outputs or {})
        norm = getattr(runner.optim_wrapper, 'grad_norm', None)
        if norm is not None:  # of the latest step, also while gradients accumulate for the next
            outputs['grad_norm'] = norm
        for name, value in outputs.items():
            value = torch.as_tensor(value).detach().float().mean()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        if is_due(self, runner, batch_idx) and self.sums:
            means = torch.stack(list(self.sums.values())) / self.count
            all_reduce(means, 'mean')
            for name, value in zip(self.sums, means.tolist(), strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)
            self.sums, self.count = {}, 0


@HOOKS.register_module()
class IterTimerHook(mmengine_hooks.IterTimerHook):
    """Times are means since the last reading; `train_seconds` in the message hub includes those of resumed runs."""

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.seconds_before = runner.message_hub.get_info('train_seconds', 0.0)
        self.seconds, self.data_seconds, self.count = 0.0, 0.0, 0

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch=None, mode: str = 'train') -> None:
        if mode == 'train':
            self.data_seconds += time.time() - self.t
        else:
            super()._before_iter(runner, batch_idx, data_batch, mode)

    def _after_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None, mode: str = 'train') -> None:
        if mode != 'train':
            super()._after_iter(runner, batch_idx, data_batch, outputs, mode)
            return
        now = time.time()
        self.seconds += now - self.t
        self.time_sec_tot += now - self.t
        self.t = now
        self.count += 1
        if is_due(self, runner, batch_idx):
            hub = runner.message_hub
            average = self.time_sec_tot / (runner.iter - self.start_iter + 1)
            hub.update_info('eta', average * (runner.max_iters - runner.iter - 1))
            hub.update_info('train_seconds', self.seconds_before + self.time_sec_tot)
            hub.update_scalar('train/time', self.seconds / self.count)
            hub.update_scalar('train/data_time', self.data_seconds / self.count)
            self.seconds, self.data_seconds, self.count = 0.0, 0.0, 0
