"""Interleaved timing."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from tqdm import tqdm


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
    bar = tqdm(total=(rounds + warmup) * len(contestants), unit='call', leave=False, disable=None)
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
