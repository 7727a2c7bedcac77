"""A short training that leaves nothing behind: how fast it loads and computes, and what memory and disk it takes."""

import math
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mae_mm.datasets.configs import datasets_of
from mae_mm.engine import runner as launch
from mae_mm.engine.loops.batches import build_dataset, end_workers
from mae_mm.engine.reliability import make_reliable

WARM_UP = 3  # steps that are not counted if there are many: the first ones allocate and compile
CACHED = 4096  # images of a cached data set that are cached here; the time and memory of the others are extrapolated
MOST = 64  # times the batch of the config that is tried on a GPU


class Measured(NamedTuple):
    """What a short training shows, one process on this machine. Seconds, bytes."""

    batch: int
    iteration: float  # from step to step
    step: float  # of that, the computation
    loading: float  # images/s of the loader alone
    one_worker: float  # images/s that one process loads
    start: float  # before the first step
    validation: float  # once
    save: float  # a checkpoint
    checkpoint: int  # its bytes
    host: float  # peak memory of this process and its workers
    device: float  # peak memory of the GPU, 0 without
    largest: int  # images of a step that fit
    images: int  # of the whole training set
    held_out: int
    cache: float  # bytes of the whole cache


class Enough(Exception):
    """Ends the measurement."""


class Clock(Hook):
    """Times loading alone, then steps until `seconds` are over, at least two; tries a step of half the batch before."""

    priority = 'LOWEST'

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun = seconds, time.perf_counter()
        self.ends: list[float] = []
        self.computed: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.start = time.perf_counter() - self.begun
        self.batch, self.loading = time_loader(runner.train_dataloader, self.seconds / 4)
        self.slope = 0.0 if torch.cuda.is_available() else bytes_per_image(runner, self.batch)
        self.begun = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.came = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        synchronise()
        now = time.perf_counter()
        self.computed.append(now - self.came)
        self.ends.append(now)
        if len(self.ends) > 2 and now - self.begun > self.seconds:
            raise Enough

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.epoch + 1 >= getattr(runner, 'max_epochs', math.inf):
            raise Enough  # before the last checkpoint and validation


class HostMemory(threading.Thread):
    """Peak memory of this process and its children, pages that they share counted once (Linux; 0 elsewhere)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0.0, threading.Event()

    def run(self) -> None:
        ended = False
        while not ended:
            ended = self.ended.wait(1.0)  # each look stops the process for some milliseconds
            self.peak = max(self.peak, sum(map(resident, family())))

    def __enter__(self) -> 'HostMemory':
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()


def family() -> list[str]:
    """This process and its children."""
    with suppress(OSError):
        return [str(os.getpid()), *Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()]
    return []


def resident(pid: str) -> float:
    """Bytes of a process in memory; of pages shared by n processes, an n-th."""
    with suppress(OSError):
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        return 1024.0 * next((int(line.split()[1]) for line in lines if line.startswith('Pss:')), 0)
    return 0.0


def available_memory() -> float:
    """Bytes that a new process could have, also in a container (Linux; infinite elsewhere)."""
    limit = math.inf
    with suppress(OSError, ValueError):
        lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
        limit = 1024.0 * int(lines['MemAvailable'].split()[0])
    with suppress(OSError, ValueError):  # 'max' without a limit
        group = Path('/sys/fs/cgroup')
        used = int((group / 'memory.current').read_text())
        limit = min(limit, int((group / 'memory.max').read_text()) - used)
    return limit


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_loader(loader: DataLoader, seconds: float) -> tuple[dict, float]:
    """A batch, and images/s without a training that waits for them."""
    count, begun, first = 0, 0.0, None
    for batch in loader:
        now = time.perf_counter()
        if first is None:
            first, begun = batch, now
            continue
        count += 1
        if now - begun > seconds:
            break
    elapsed = time.perf_counter() - begun
    return first, count * loader.batch_sampler.batch_size / elapsed if count else math.inf


def cycle(value: object, size: int) -> object:
    """A batch with `size` images instead, the same ones in turn."""
    if isinstance(value, dict):
        return {key: cycle(one, size) for key, one in value.items()}
    if isinstance(value, torch.Tensor):
        return value[torch.arange(size) % len(value)]
    return [value[i % len(value)] for i in range(size)] if isinstance(value, list | tuple) else value


def try_step(runner: Runner, batch: dict, size: int) -> None:
    runner.model.train()
    runner.model.train_step(cycle(batch, size), optim_wrapper=runner.optim_wrapper)
    synchronise()


def bytes_per_image(runner: Runner, batch: dict) -> float:
    """Memory of one more image in a step on the CPU, from steps of half the batch and of all."""
    size, peaks = runner.train_dataloader.batch_sampler.batch_size, {}
    for number in (max(1, size // 2), max(2, size)):
        with suppress(OSError):  # Linux only
            Path('/proc/self/clear_refs').write_text('5')  # forgets the peak
            try_step(runner, batch, number)
            status = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
            peaks[number] = 1024 * int(status['VmHWM'].split()[0])
    (small, low), (large, high) = list(peaks.items()) or [(0, 0), (1, 0)]
    return max(0.0, (high - low) / (large - small))


def largest_on_gpu(runner: Runner, batch: dict, fits: int) -> int:
    """Images of a step that fit, by trial: doubled until the memory is full, then halfway."""
    size, step = 2 * fits, fits
    while step >= max(1, fits // 4) and size <= MOST * fits:
        try:
            try_step(runner, batch, size)
            fits = size
            step = step if step < size - step else size
            size += step
        except torch.OutOfMemoryError:
            step //= 2
            size = fits + step
        runner.optim_wrapper.zero_grad()
        torch.cuda.empty_cache()
    return fits


def measure(cfg: Config, seconds: float, folder: str) -> Measured:
    """Train for some seconds in a folder, then load, validate and save."""
    cfg = deepcopy(cfg)
    cfg.work_dir, cfg.launcher, cfg.log_level = folder, 'none', 'ERROR'
    launch.adapt_to_machine(cfg)
    validation = cfg.get('val_dataloader')
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    make_reliable(cfg)
    cfg.default_hooks.pop('preemption', None)  # Ctrl-C ends this at once
    cfg.default_hooks.checkpoint = None
    images, caching = limit_cache(cfg)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    free, own = available_memory(), sum(map(resident, family()))
    with HostMemory() as host:
        clock = Clock(seconds)
        runner = launch.build_runner(cfg)
        runner.register_hook(clock)
        with suppress(Enough):
            runner.train()
        loader = runner.train_dataloader
        batch, cached = loader.batch_sampler.batch_size, getattr(loader.dataset, 'cache', None)
        one_worker = 1 / time_samples(loader.dataset)
        validating, held_out = time_validation(runner, validation) if validation else (0.0, 0)
        begun = time.perf_counter()
        runner.save_checkpoint(folder, 'checkpoint.pth')
        saving = time.perf_counter() - begun
        device = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    grown = images / len(loader.dataset) if cached else 1.0
    cache = min(cached.used * grown, cached.memory.nbytes) if cached else 0.0
    host_peak = host.peak + (cache - cached.used if cached else 0.0)
    if device:
        largest = largest_on_gpu(runner, clock.batch, batch)
    elif clock.slope:
        largest = max(1, int((free + own - host_peak) / clock.slope) + batch)
    else:
        largest = batch
    skip = min(WARM_UP, len(clock.ends) // 3)
    ends, computed = clock.ends[skip:], clock.computed[skip + 1:]
    return Measured(
        batch, (ends[-1] - ends[0]) / max(len(ends) - 1, 1), sum(computed) / max(len(computed), 1), clock.loading,
        one_worker, clock.start + (grown - 1) * caching, validating, saving,
        (Path(folder) / 'checkpoint.pth').stat().st_size, host_peak, device, largest, images, held_out, cache)


def limit_cache(cfg: Config) -> tuple[int, float]:
    """Let a cached data set cache a part only; the images of the whole set, and seconds to cache this part."""
    (_, dataset), *more = datasets_of(cfg, 'train_dataloader')
    if more or not dataset.get('cache'):
        return len(build_dataset(cfg.train_dataloader.dataset.copy())), 0.0
    begun = time.perf_counter()
    images = len(build_dataset(dict(dataset, cache='none')))
    if dataset.cache == 'none' or images <= CACHED or not isinstance(dataset.get('indices', 0), int | None):
        return images, 0.0
    dataset.indices = CACHED
    middle = time.perf_counter()
    build_dataset(dict(dataset))
    return images, max(0.0, time.perf_counter() - middle - (middle - begun))


def time_samples(dataset: Sequence, seconds: float = 3.0) -> float:
    """Seconds to load one image in this process."""
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds and count < len(dataset):
        dataset[(count * 7919 % len(dataset), count)]
        count += 1
    return (time.perf_counter() - begun) / max(count, 1)


def time_validation(runner: Runner, config: dict, batches: int = 4) -> tuple[float, int]:
    """Seconds for all held-out images, from a few batches, and their number; metrics are not computed."""
    loader = runner.build_dataloader(config)
    runner.model.eval()
    begun = time.perf_counter()
    for number, batch in enumerate(loader, 1):
        with torch.no_grad():
            runner.model.val_step(batch)
        synchronise()
        if number == batches:
            break
    return (time.perf_counter() - begun) / number * len(loader), len(loader.dataset)


def measure_what_fits(cfg: Config, seconds: float = 30.0) -> Measured:
    """`measure`, with half the batch for as long as the GPU's memory is too small."""
    while True:
        with tempfile.TemporaryDirectory() as folder:
            try:
                return measure(cfg, seconds, folder)
            except torch.OutOfMemoryError as error:
                batch = cfg.train_dataloader.batch_size // 2
                if not batch:
                    raise ValueError('one image does not fit into the GPU: choose a smaller model or image') from error
                cfg.train_dataloader.batch_size = batch
                torch.cuda.empty_cache()
            finally:
                end_workers()
