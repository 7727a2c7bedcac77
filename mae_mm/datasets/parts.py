"""Work on a list that all training processes do together, each a part of it."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mmengine.dist import all_gather_object, get_dist_info
from tqdm import tqdm

T = TypeVar('T')
R = TypeVar('R')


def map_in_parts(function: Callable[[T], R], items: Sequence[T], title: str, unit: str, threads: int = 1) -> list[R]:
    """The results for all items, in their order, in all processes; to be called by all of them.

    Args:
        threads: for each core, 32 at most in all; more than one for what waits for a disk.
    """
    rank, world = get_dist_info()
    mine = items[rank::world]
    with ThreadPoolExecutor(min(32, threads * (os.cpu_count() or 1))) as pool:
        bar = tqdm(
            pool.map(function, mine), title, len(mine), unit=unit, delay=1, disable=True if rank else None)
        parts = all_gather_object(list(bar))
    return [parts[i % world][i // world] for i in range(len(items))]
