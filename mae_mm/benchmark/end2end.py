"""Whole training runs at demo scale, from files to the last checkpoint: this project against mmpretrain's parts.

Both read the same files and train models of one shape on batches of one size, each as its own recipes have it: ours in
bfloat16 with its loader and its cache, theirs in float32 (mmengine's mixed precision needs a GPU) with its transforms.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module

from mmengine.config import Config
from mmengine.runner import Runner

from mae_mm.benchmark.loader import MMPRETRAIN
from mae_mm.benchmark.step import MMPRETRAIN_DECAY, OPTIMIZER, mmpretrain_model
from mae_mm.benchmark.timing import Rounds, Timing, interleave, summarise
from mae_mm.engine import runner as launch
from mae_mm.paths import ROOT

RECIPE = 'configs/demo/mae_pretrain.py'


def our_config(epochs: int, dtype: str = 'auto') -> Config:
    """The demo recipe, shortened, without validation."""
    options = {
        'optim_wrapper.dtype': dtype,
        'train_cfg.max_epochs': epochs, 'default_hooks.checkpoint.interval': epochs, 'train_dataloader.batch_size': 256}
    cfg = launch.load_config(str(ROOT / RECIPE), options)
    cfg.param_scheduler = None  # the warm-up alone is longer
    cfg.auto_scale_lr.enable = False
    cfg.custom_hooks = []
    return cfg


def mmpretrain_config(epochs: int) -> Config:
    """The same in mmpretrain's parts."""
    ours = our_config(epochs)
    backbone, loader = ours.model.backbone, ours.train_dataloader
    load, crop, *rest = MMPRETRAIN
    arch = dict(
        embed_dims=backbone.arch.embed_dim, num_layers=backbone.arch.depth, num_heads=backbone.arch.num_heads,
        feedforward_channels=4 * backbone.arch.embed_dim)
    model = mmpretrain_model(arch, backbone.arch.embed_dim, backbone.img_size, backbone.patch_size, ours.model.neck)
    dataset = dict(
        type='mmpretrain.CustomDataset', data_root=loader.dataset.data_root, with_label=False,
        pipeline=[load, dict(crop, scale=backbone.img_size), *rest])
    return Config({
        **ours.to_dict(), 'model': model,
        'train_dataloader': dict(loader.to_dict(), dataset=dataset),
        'optim_wrapper': dict(type='OptimWrapper', optimizer=OPTIMIZER, paramwise_cfg=MMPRETRAIN_DECAY),
    })


def run(name: str, epochs: int, folder: str) -> dict[str, float]:
    """Train in this process; seconds from building to the end, of wall and of CPU (workers included)."""
    cfg = mmpretrain_config(epochs) if name == 'mmpretrain' else our_config(epochs, name.removeprefix('mae_mm '))
    cfg.train_dataloader.persistent_workers = False  # their CPU time counts once they have ended
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.work_dir, cfg.launcher, cfg.log_level = folder, 'none', 'WARNING'
    import_module('mmpretrain.models')  # before the clock starts: the registry would, in the middle of it
    start, cpu = time.perf_counter(), _cpu_seconds()
    runner: Runner = launch.build_runner(cfg)
    runner.train()
    seconds = time.perf_counter() - start
    return dict(
        seconds=seconds, cpu_seconds=_cpu_seconds() - cpu,
        images_per_second=runner.iter * cfg.train_dataloader.batch_size / seconds)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare_runs(epochs: int = 1, rounds: int | Rounds = 3, dtypes: Sequence[str] = ('auto', )) -> list[dict]:
    """Run both in turn, ours in each precision, each in a process of its own.

    Returns:
        A row for each: `name`, `seconds` and `cpu_seconds` (`Timing`), `images_per_second` (whole run), and `ratio`,
        mmpretrain's median seconds of CPU / this one's.
    """
    results = {name: [] for name in ('mmpretrain', *(f'mae_mm {dtype}' for dtype in dtypes))}

    def measure(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, '-m', __name__, name, str(epochs), folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-2000:]}')
        results[name].append(json.loads(done.stdout.splitlines()[-1]))

    interleave({name: lambda name=name: measure(name) for name in results}, rounds, warmup=0)
    rows = []
    for name, runs in results.items():
        seconds, cpu = (summarise([r[key] for r in runs]) for key in ('seconds', 'cpu_seconds'))
        rate = summarise([r['images_per_second'] for r in runs]).median
        rows.append(dict(name=name, seconds=seconds, cpu_seconds=cpu, images_per_second=rate))
    peer: Timing = rows[0]['cpu_seconds']
    return [dict(row, ratio=peer.median / row['cpu_seconds'].median) for row in rows]


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('name')
    parser.add_argument('epochs', type=int)
    parser.add_argument('folder')
    args = parser.parse_args()
    print(json.dumps(run(args.name, args.epochs, args.folder)))
