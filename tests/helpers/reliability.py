"""Tiny trainings that are stopped, broken and resumed, and what is left of them."""

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from helpers import ROOT
from mae_mm.engine import reliability
from mae_mm.engine import runner as launch
from mae_mm.engine.resume import check_resume, choose_checkpoint

DEMO = 'configs/demo/mae_pretrain.py'
BATCH, IMAGES = 4, 24
EPOCH = IMAGES // BATCH  # iterations of an epoch, in one process
TINY = {
    'train_dataloader.batch_size': BATCH, 'train_dataloader.num_workers': 2, 'val_dataloader.num_workers': 0,
    'model.backbone.arch.embed_dim': 24, 'model.backbone.arch.depth': 1, 'model.neck.embed_dim': 24,
    'model.neck.depth': 1, 'auto_scale_lr.base_batch_size': BATCH, 'param_scheduler.0.end': 1,
    'param_scheduler.1.begin': 1, 'train_cfg.max_epochs': 4, 'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 1, 'default_hooks.logger.interval': 2,
    'default_hooks.nonfinite.interval': 2, 'default_hooks.nonfinite.patience': 2,
    'train_dataloader.dataset.cache': 'none', 'custom_hooks': []}
ALONE = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False}
_numbers = itertools.count()


class Stop(BaseException):
    """The power fails."""


class StopAt(Hook):
    """Ends the process, as far as a test can, at some point of an iteration or validation."""

    priority = 'VERY_LOW'

    def __init__(self, iteration: int | None = None, validation: int | None = None) -> None:
        self.iteration, self.validation, self.validations = iteration, validation, 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            raise Stop

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.validations += 1
        if self.validations == self.validation:
            raise Stop


def save_images(folder: Path, count: int = IMAGES) -> Path:
    """A flat folder of small JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.BICUBIC).save(folder / f'{i:02}.jpg')
    return folder


def tiny_config(images: Path, work_dir: Path, **options: object) -> Config:
    """The demo recipe at `TINY` scale, as `tools/train.py` would run it."""
    paths = {f'{loader}_dataloader.dataset.data_root': str(images) for loader in ('train', 'val', 'test')}
    cfg = launch.load_config(str(ROOT / DEMO), copy.deepcopy({**TINY, **paths, **options}))
    cfg.work_dir, cfg.launcher, cfg.log_level = str(work_dir), 'none', 'WARNING'
    cfg.experiment_name = f'run{next(_numbers)}'  # mmengine's own has seconds only, and runs of one name share a hub
    return cfg


def build(cfg: Config, resume: bool = False, hooks: tuple[Hook, ...] = ()) -> Runner:
    """The Runner, with further hooks."""
    if resume:
        choose_checkpoint(cfg, 'auto')
    reliability.make_reliable(cfg)
    runner = launch.build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    check_resume(runner)
    return runner


def train(cfg: Config, resume: bool = False, hooks: tuple[Hook, ...] = ()) -> Runner:
    """Train to the end, or to where a hook stops it."""
    runner = build(cfg, resume, hooks)
    try:
        runner.train()
    except Stop:
        restore_signals(runner)
        del runner.train_loop.dataloader
    return runner


def restore_signals(runner: Runner) -> None:
    """What a process that ends leaves to the system."""
    for hook in runner.hooks:
        if getattr(hook, 'before', None):
            hook.after_train(runner)


def state(runner: Runner) -> dict[str, torch.Tensor]:
    """Weights, optimizer state, schedules and counts at the end of a run."""
    flat = {f'weight {name}': value.clone() for name, value in runner.model.state_dict().items()}
    flat |= _flatten('optimizer', runner.optim_wrapper.state_dict())
    for i, scheduler in enumerate(runner.param_schedulers):
        flat |= _flatten(f'scheduler {i}', scheduler.state_dict())
    flat['place'] = torch.tensor([runner.epoch, runner.iter])
    return flat


def _flatten(name: str, value: object) -> dict[str, torch.Tensor]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: one for part, inner in items for key, one in _flatten(f'{name}.{part}', inner).items()}
    if isinstance(value, torch.Tensor):
        return {name: value.clone()}
    return {name: torch.tensor(value, dtype=torch.float64)} if isinstance(value, int | float) else {}


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names under which two states differ by a bit."""
    return [name for name in one.keys() | other.keys()
            if name not in one or name not in other or not torch.equal(one[name], other[name])]


def logged(work_dir: Path) -> dict[tuple[str, int], dict]:
    """All that was logged of losses, rates and validations, by kind and step; a repetition takes the earlier place."""
    lines = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            if not line.endswith('}'):  # of a killed process
                continue
            values = json.loads(line)
            kept = {key: value for key, value in values.items() if 'time' not in key and key != 'memory'}
            lines['val' if 'recon/loss' in kept else 'train', kept.get('iter', kept['step'])] = kept
    return lines
