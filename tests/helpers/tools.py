"""Tools of the project, run as users run them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

DEMO = 'configs/demo/mae_pretrain.py'


def run(*args: str, **env: str) -> subprocess.CompletedProcess:
    """A command in the project's root; its output as text."""
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1', **env}, text=True,
        capture_output=True, timeout=300)


def tiny(images: Path, **more: object) -> list[str]:
    """--cfg-options that shrink the demo recipe to two steps an epoch."""
    options = {
        'train_dataloader.dataset.data_root': images, 'val_dataloader.dataset.data_root': images,
        'test_dataloader.dataset.data_root': images, 'train_dataloader.batch_size': 12,
        'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0,
        'model.backbone.arch.embed_dim': 24, 'model.backbone.arch.depth': 1, 'model.neck.embed_dim': 24,
        'model.neck.depth': 1, 'auto_scale_lr.base_batch_size': 12, 'param_scheduler.0.end': 1,
        'param_scheduler.1.begin': 1, 'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 1,
        'default_hooks.logger.interval': 1, **more}
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]


def run_tool(name: str, *args: object) -> None:
    """`python tools/NAME.py ARGS`, in this process: importing mmdet takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, args)])
        patch.setattr(sys, 'path', [str(ROOT / 'tools'), *sys.path])
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / f'tools/{name}.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        tool.main()
