"""Interleaved timing."""

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from tqdm import tqdm


class Timing(NamedTuple):
    """Seconds that one call took, over several calls."""

    median: float
    low: float  # first quartile
    high: float  # third quartile


class Rounds(NamedTuple):
    """Timed rounds of each contestant, and the minutes after which no further one begins."""

    number: int
    minutes: float = math.inf


def interleave(
    contestants: dict[str, Callable[[], None]], rounds: int | Rounds, warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each contestant once a round, in turn, so that a noisy neighbour disturbs all alike.

    Stderr gets the plan, an estimate after the first call, and how many rounds a limit of minutes allowed, at least 1.

    Args:
        contestants: name -> a call to time; it returns when its work is done (synchronise a GPU inside).
        rounds: timed calls of each.
        warmup: calls of each before that.
        clock: `time.process_time` counts this process's own work only, whatever else the machine does.

    Returns:
        Name -> seconds a call.
    """
    rounds, minutes = rounds if isinstance(rounds, Rounds) else Rounds(rounds)
    seconds, begin = {name: [] for name in contestants}, time.monotonic()
    calls = (rounds + warmup) * len(contestants)
    tqdm.write(f'{len(contestants)} contestants, {warmup} + {rounds} rounds', file=sys.stderr)
    with tqdm(total=calls, unit='call', leave=False, disable=None) as bar:
        for i in range(rounds + warmup):
            spent = (time.monotonic() - begin) / 60
            if i > warmup and spent * (i + 1) / i > minutes:
                tqdm.write(f'{i - warmup} of {rounds} rounds in {spent:.1f} minutes', file=sys.stderr)
                break
            for name, call in contestants.items():
                start = clock()
                call()
                if i >= warmup:
                    seconds[name].append(clock() - start)
                if i == 0 and name == next(iter(contestants)):
                    left = calls * (time.monotonic() - begin) / 60
                    tqdm.write(f'about {left:.1f} minutes, if all calls take as long as the first', file=sys.stderr)
                bar.update()
    return {name: summarise(times) for name, times in seconds.items()}


def summarise(times: list[float]) -> Timing:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Timing(median, low, high)
