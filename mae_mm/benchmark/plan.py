"""From a short training to the whole run of a config: hours, memory, disk, and the options that suit the machine."""

import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mae_mm.benchmark.short_run import Measured
from mae_mm.datasets.configs import datasets_of

GB = 1e9


class Plan(NamedTuple):
    """The whole run. Seconds, bytes."""

    steps: int
    seconds: float
    validations: int
    rate: float  # images/s of all processes
    bottleneck: str  # 'loading' or 'computing'
    disk: float
    workers: int  # for each process
    accumulate: int


def plan(cfg: Config, found: Measured, wanted: int, gpus: int = 1) -> Plan:
    """From one process to the run of a config on `gpus`; communication between them is not counted.

    Args:
        wanted: images for each process and update in the config; `found.batch` are less if they do not fit.
    """
    loop, save = cfg.train_cfg, (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    accumulate = math.ceil(wanted / found.batch)
    per_epoch = found.images / (found.batch * gpus)
    per_epoch = int(per_epoch) if cfg.train_dataloader.get('drop_last') else math.ceil(per_epoch)
    end = loop.get('max_epochs') or loop.max_iters
    steps = end * per_epoch if 'max_epochs' in loop else end * accumulate
    cores = os.cpu_count() or 1
    # All processes of a machine share its cores.
    loading = min(found.loading, found.one_worker * cores / gpus)
    iteration = max(found.iteration, found.batch / loading) if gpus > 1 else found.iteration
    validations = math.ceil(end / loop.get('val_interval', 1)) if found.held_out else 0
    interval = save.get('interval', 1) if save else 0
    saves = math.ceil(end / interval) if interval and interval > 0 else 0
    keep = save.get('max_keep_ckpts', -1)
    kept = saves if keep < 0 else min(keep, saves)
    needed = math.ceil(1.2 * found.batch / found.step / found.one_worker)
    return Plan(
        steps, found.start + steps * iteration + validations * found.validation / gpus + saves * found.save,
        validations, found.batch * gpus / iteration,
        'loading' if found.batch / loading > 0.9 * iteration and iteration > 1.15 * found.step else 'computing',
        (kept + bool(saves)) * found.checkpoint,  # one is written before the oldest is deleted
        max(1, min(needed, cores // gpus)), accumulate)


def report(cfg: Config, found: Measured, whole: Plan, gpus: int, work_dir: str) -> list[str]:
    """What a person needs to know, in lines."""
    loader = cfg.train_dataloader
    place = Path(work_dir).resolve()
    free = shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free
    share = whole.validations * found.validation / gpus / whole.seconds
    reasons = dict(
        loading='loading is the bottleneck', computing='computing is the bottleneck: loading keeps up with it')
    lines = dict(
        images=f'{found.images:,} to train on, {found.held_out:,} held out',
        speed=f'{whole.rate:,.0f} images/s; {reasons[whole.bottleneck]}',
        step=f'{found.step:.3g} s for {found.batch} images, {found.iteration:.3g} s with waiting',
        loading=(f'{found.loading:,.0f} images/s with {loader.num_workers} workers, {found.one_worker:,.0f} in one '
                 'process'),
        run=f'{whole.steps:,} steps' + (f' on {gpus} GPUs' if gpus > 1 else '') + f', {duration(whole.seconds)}, '
        f'{share:.0%} of it for {whole.validations} validations',
        memory=f'{found.host / GB:.2g} GB for a process and its workers' + (
            f', {found.cache / GB:.2g} GB of it the cache, one for a machine' if found.cache else '') + (
            f'; {found.device / GB:.2g} GB on the GPU' if found.device else ''),
        batch=(f'all {found.images:,}' if found.largest >= found.images else
               f'{"about " * (not found.device)}{found.largest:,}') + ' images fit in a step',
        disk=f'{whole.disk / GB:.2g} GB for checkpoints of {found.checkpoint / GB:.2g} GB; {free / GB:,.0f} GB free')
    if whole.disk > free:
        lines['disk'] += ' (TOO LITTLE: lower default_hooks.checkpoint.max_keep_ckpts)'
    return [f'{name:<8}{line}' for name, line in lines.items()]


def options(cfg: Config, found: Measured, whole: Plan) -> list[str]:
    """`--cfg-options` that suit this machine better than the config; [] if none does."""
    loader, chosen = cfg.train_dataloader, []
    if whole.accumulate > 1:
        before = cfg.optim_wrapper.get('accumulative_counts', 1)
        chosen += [f'train_dataloader.batch_size={found.batch}',
                   f'optim_wrapper.accumulative_counts={before * whole.accumulate}']
    if loader.num_workers > (os.cpu_count() or 1) or whole.bottleneck == 'loading':
        chosen += [f'train_dataloader.num_workers={whole.workers}'] if whole.workers != loader.num_workers else []
    (_, dataset), *more = datasets_of(cfg, 'train_dataloader')
    if whole.bottleneck == 'loading' and not more and dataset.get('cache') == 'none':
        chosen += ['train_dataloader.dataset.cache=memory']
    return chosen


def duration(seconds: float) -> str:
    if seconds < 5400:
        return f'{seconds / 60:.3g} minutes'
    return f'{seconds / 3600:.3g} hours' if seconds < 48 * 3600 else f'{seconds / 86400:.3g} days'
