"""What a run shows to people: a summary, its progress, each validation. The log file has everything."""

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from numbers import Real
from typing import TextIO

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from tqdm import tqdm

from mae_mm.engine.advice import start_of
from mae_mm.engine.hooks.scalars import is_due

HOSTS = tuple(
    os.path.join(os.path.dirname(found.origin), '') for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    if (found := find_spec(name)) and found.origin)
NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')  # mmengine about its own hooks


class Console(logging.StreamHandler):
    """Shows messages above a progress bar, but not what the libraries tell the log: config, environment, each step."""

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__(stream)
        self.setLevel(level)

    def filter(self, record: logging.LogRecord) -> bool:
        details = record.levelno <= logging.INFO and record.pathname.startswith(HOSTS)
        return not details and not str(record.msg).startswith(NOISE) and super().filter(record)

    def format(self, record: logging.LogRecord) -> str:
        prefix = f'{record.levelname}: ' if record.levelno > logging.INFO else ''
        return prefix + super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.show(self.format(record))
        except Exception:  # as logging's handlers do
            self.handleError(record)

    def show(self, line: str) -> None:
        tqdm.write(line, file=self.stream)
        self.flush()


def simplify_console(logger: MMLogger) -> MMLogger:
    """Put `Console` in place of mmengine's handler of standard output."""
    for i, handler in enumerate(logger.handlers):
        if type(handler) is logging.StreamHandler:
            logger.handlers[i] = console = Console(handler.stream, handler.level)
            console.filters = handler.filters  # repeated warnings
    return logger


class ConsoleRunner(Runner):
    """`Runner` whose first messages, environment and config, go to the log file only."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        return simplify_console(super().build_logger(*args, **kwargs))


class ConsoleHook(Hook):
    """Shows a summary before training, then a progress bar (in a terminal) or a line per log interval, and metrics.

    What is shown during training is not logged: the log file has mmengine's own lines of it.
    """

    bar: tqdm | None = None

    def before_run(self, runner: Runner) -> None:
        consoles = [one for one in runner.logger.handlers if isinstance(one, Console) and one.level <= logging.INFO]
        self.console = consoles[0] if consoles else None  # None: another rank, or a log level above INFO

    before_test = before_run

    def before_train(self, runner: Runner) -> None:
        if self.console is None:
            return
        runner.logger.info('\n'.join(summary(runner)))
        if self.console.stream.isatty():
            self.bar = tqdm(
                total=runner.max_iters, initial=runner.iter, unit='step', file=self.console.stream, dynamic_ncols=True,
                smoothing=0.05)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.console is None:
            return
        due = is_due(self, runner, batch_idx)
        if self.bar is not None:
            self.bar.set_description_str(place(runner, bare=True), refresh=False)
            if due:
                self.bar.set_postfix_str('  '.join(numbers(runner)), refresh=False)
            self.bar.update()
        elif due:
            eta = timedelta(seconds=int(runner.message_hub.get_info('eta', 0)))
            self.console.show('  '.join([place(runner, batch_idx), *numbers(runner), f'{eta} left']))
        if runner.iter + 1 >= runner.max_iters:
            self._end_bar()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.bar is not None:
            self.bar.set_description_str(f'validation {batch_idx + 1}/{len(runner.val_dataloader)}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.console is None or not metrics:
            return
        when = ''
        if isinstance(runner._train_loop, BaseLoop):  # `runner.iter` would build the loop
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
            when = f'epoch {runner.epoch}, ' if by_epoch else f'step {runner.iter:,}, '
        self.console.show(f'{when}validation: {describe(metrics)}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.console is not None and metrics:
            self.console.show(f'test: {describe(metrics)}')

    def after_train(self, runner: Runner) -> None:
        self._end_bar()

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def summary(runner: Runner) -> list[str]:
    """What is trained on what, and how: a few lines."""
    cfg, model = runner.cfg, runner.model.module if is_model_wrapper(runner.model) else runner.model
    params = list(model.parameters())
    total, trained = (sum(one.numel() for one in params if one.requires_grad or every) / 1e6 for every in (True, False))
    parts = [type(model).__name__ + (f' with {type(model.backbone).__name__}' if hasattr(model, 'backbone') else '')]
    if not hasattr(runner, 'strategy'):  # FSDP: each process has a part
        parts += [f'{total:.3g} M parameters'] + [f'{trained:.3g} M of them trained'] * (trained < 0.99 * total)
    loaders = dict(training=runner.train_dataloader)
    if runner.val_loop is not None:
        loaders['held-out'] = runner.val_dataloader
    rows = dict(model=', '.join(parts))
    for name, loader in loaders.items():
        root = getattr(loader.dataset, 'data_root', None)
        rows[name] = f'{len(loader.dataset):,} images' + (f', {root}' if root else '')

    world, size = get_world_size(), getattr(runner.train_dataloader.batch_sampler, 'batch_size', '?')
    accumulated = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    steps = f'{runner.max_iters:,} steps'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        epochs = f'{runner.max_epochs} epoch' + 's' * (runner.max_epochs > 1)
        steps = f'{len(runner.train_dataloader):,} steps x {epochs} = {steps}'
    rows['batch'] = f'{size} images' + (f' x {world} processes' if world > 1 else '') + f', {steps}' + (
        f', an update every {accumulated} steps' if accumulated > 1 else '')
    if runner.iter:
        rows['resumed'] = f'after {runner.iter:,} steps'
    rows['lr'] = f'{(lr := start_of(runner)[0]):.3g} at its highest'
    if (scaling := cfg.get('auto_scale_lr') or {}).get('enable') and (given := cfg.optim_wrapper.optimizer.lr) != lr:
        rows['lr'] += f"; the config's {given:.3g} is for a batch of {scaling['base_batch_size']}"
    device = params[0].device
    hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads'
    rows['precision'] = precision(runner, model)
    rows['device'] = f'{device.type}, {hardware}' + (f', {world} processes' if world > 1 else '')
    rows['files'] = f'{runner.work_dir}; environment, config and all numbers: {runner.log_dir}'
    return [f'{name:<11}{row}' for name, row in rows.items()]


def precision(runner: Runner, model: torch.nn.Module) -> str:
    dtype = getattr(runner.optim_wrapper, 'dtype', torch.float32)  # of AutocastOptimWrapper
    if dtype != torch.float32:
        return f'{dtype} (autocast)'.removeprefix('torch.')
    if isinstance(runner.optim_wrapper, AmpOptimWrapper):
        return f'{runner.optim_wrapper.cast_dtype or "float16"} (autocast)'.replace('torch.', '')
    return 'float32' + (', backbone bfloat16' if any(getattr(part, 'bf16', False) for part in model.modules()) else '')


def place(runner: Runner, batch_idx: int = 0, bare: bool = False) -> str:
    """How far a training is."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return 'training' if bare else f'step {runner.iter + 1:,}/{runner.max_iters:,}'
    epoch = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
    return epoch if bare else f'{epoch}  step {batch_idx + 1}/{len(runner.train_dataloader)}'


def numbers(runner: Runner) -> list[str]:
    """Loss, the highest lr, and images/s, means over what the log averages."""
    scalars, window = runner.message_hub.log_scalars, runner.log_processor.window_size
    means = {name: scalars[f'train/{name}'].mean(window) for name in ('loss', 'time') if f'train/{name}' in scalars}
    found = [f'loss {means["loss"]:.4f}'] if 'loss' in means else []
    # Under layer decay most groups have a part of it; `optim_wrapper.param_groups` has a dummy, too, for `base_lr`.
    found.append(f'lr {max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups):.2e}')
    size = getattr(runner.train_dataloader.batch_sampler, 'batch_size', None)
    if size and means.get('time'):
        found.append(f'{size * get_world_size() / means["time"]:,.0f} images/s')
    return found


def describe(metrics: Mapping[str, object]) -> str:
    """Metrics in one line; the held-out loss beside what it must beat."""
    if 'recon/loss' in metrics:
        return (
            f'masked loss {metrics["recon/loss"]:.4f}  patch mean {metrics["recon/patch_mean"]:.4f}  interpolation '
            f'{metrics["recon/interpolation"]:.4f}  margin {metrics["recon/margin"]:.1%}')
    return '  '.join(f'{name} {value:.4g}' for name, value in metrics.items() if isinstance(value, Real))
