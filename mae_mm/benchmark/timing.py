"""Interleaved timing, and what a figure is worthless without: the machine and the versions."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import distributions
from typing import NamedTuple

import torch
from tqdm import tqdm

PACKAGES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation', 'numpy')


class Timing(NamedTuple):
    """Seconds that one call took, over several calls."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


def interleave(
    contestants: dict[str, Callable[[], None]], rounds: int, warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each contestant once a round, in turn, so that a noisy neighbour disturbs all alike.

    Args:
        contestants: name -> a call to time; it returns when its work is done (synchronise a GPU inside).
        rounds: timed calls of each.
        warmup: calls of each before that.
        clock: `time.process_time` counts this process's own work only, whatever else the machine does.

    Returns:
        Name -> seconds a call.
    """
    seconds = {name: [] for name in contestants}
    bar = tqdm(total=(rounds + warmup) * len(contestants), unit='call', leave=False)
    for i in range(rounds + warmup):
        for name, call in contestants.items():
            start = clock()
            call()
            if i >= warmup:
                seconds[name].append(clock() - start)
            bar.update()
    bar.close()
    return {name: summarise(times) for name, times in seconds.items()}


def summarise(times: list[float]) -> Timing:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Timing(median, low, high)


def environment() -> dict[str, str | int]:
    """The machine and the versions that a figure belongs to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    installed = {dist.metadata['Name']: dist.version for dist in distributions()}
    packages = {name: installed[name] for name in PACKAGES if name in installed}
    return dict(
        device=device, cores=os.cpu_count(), threads=torch.get_num_threads(), python=platform.python_version(),
        **packages)


def _cpu_name() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':')[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown_table(header: list[str], rows: list[list]) -> str:
    """Rows of cells as a markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in lines)
