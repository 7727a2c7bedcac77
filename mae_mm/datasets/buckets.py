"""Images of several shapes in one run: each is cropped to the size whose aspect is nearest, a batch to one size."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import DefaultSampler

from mae_mm.datasets.parts import map_in_parts
from mae_mm.datasets.pixel_files import source_size
from mae_mm.registry import DATA_SAMPLERS


def log_aspects(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The logarithm of width / height of each (height, width): wide and tall ones differ equally from a square."""
    return np.array([math.log(width / height) for height, width in sizes])


def nearest_sizes(
        source: Callable[[int], dict], chosen: Sequence[int], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The position in `sizes` of the (height, width) with the nearest aspect, for each of the `chosen` images.

    To be called by all processes, which read a part of the headers each. An image that cannot be read counts as square.
    `source(i)` is that of `mae_mm.ImageFolder`. Returns (len(chosen),) uint8.
    """
    aspects = log_aspects(sizes)

    def nearest(i: int) -> int:
        place = source(i)
        try:
            width, height = source_size(place)
        except OSError:
            width = height = 1
        return int(np.abs(aspects - math.log(width / height)).argmin())

    return np.array(map_in_parts(nearest, chosen, 'image sizes', 'image', threads=4), np.uint8)


def join_small(buckets: np.ndarray, sizes: Sequence[tuple[int, int]], smallest: int) -> np.ndarray:
    """Let sizes with fewer than `smallest` images join those of the nearest aspect, the smallest first."""
    aspects = log_aspects(sizes)
    buckets, counts = buckets.copy(), np.bincount(buckets, minlength=len(sizes))
    while (used := np.flatnonzero(counts)).size > 1 and counts[used].min() < smallest:
        small = used[counts[used].argmin()]
        others = used[used != small]
        near = others[np.abs(aspects[others] - aspects[small]).argmin()]
        buckets[buckets == small] = near
        counts[near] += counts[small]
        counts[small] = 0
    return buckets


@DATA_SAMPLERS.register_module()
class BucketBatchSampler:
    """Batches of images of one size each, of a data set with `crop_sizes`: the `batch_sampler` of a loader.

    Images come in the order of the `sampler`, a DefaultSampler, and are a batch when enough of one size are there. With
    one size only the batches are those without this sampler. All processes have batches of the same size at the same
    time. In training (`shuffle`) the images that fill no batch are left out of an epoch, others in each, and sizes with
    fewer images than a batch of all processes join the nearest one. In evaluation they come last.
    """

    def __init__(self, sampler: DefaultSampler, batch_size: int) -> None:
        if not isinstance(sampler, DefaultSampler):
            raise ValueError(f'BucketBatchSampler needs a sampler of type DefaultSampler, got {type(sampler).__name__}')
        self.sampler, self.batch_size, self.dataset = sampler, batch_size, sampler.dataset
        if getattr(self.dataset, 'buckets', None) is None:
            raise ValueError('BucketBatchSampler needs a data set with crop_sizes=[(height, width), …]')
        if sampler.shuffle:
            self.dataset.join_small_buckets(sampler.world_size * batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rank, world, order = self.sampler.rank, self.sampler.world_size, range(len(self.dataset))
        if self.sampler.shuffle:  # as DefaultSampler does
            generator = torch.Generator().manual_seed(self.sampler.seed + self.sampler.epoch)
            order = torch.randperm(len(self.dataset), generator=generator).tolist()
        buckets = self.dataset.buckets
        waiting: dict[int, list[int]] = {bucket: [] for bucket in np.unique(buckets)}
        for index in order:
            batch = waiting[buckets[index]]
            batch.append(index)
            if len(batch) == world * self.batch_size:
                yield batch[rank::world]
                waiting[buckets[index]] = []
        if self.sampler.shuffle:
            return
        rest = []  # fewer than one for each process, of all sizes: in batches of one
        for batch in waiting.values():
            whole = len(batch) // world * world
            rest += batch[whole:]
            if whole:
                yield batch[rank:whole:world]
        for start in range(0, len(rest), world):
            row = rest[start:start + world]
            yield [row[rank % len(row)]]  # what fills the last row is cut off by mmengine's evaluators

    def __len__(self) -> int:
        world, counts = self.sampler.world_size, np.bincount(self.dataset.buckets)
        whole = counts // (world * self.batch_size)
        if self.sampler.shuffle:
            return int(whole.sum())
        rest = counts - whole * world * self.batch_size
        return int(whole.sum() + (rest >= world).sum()) + math.ceil((rest % world).sum() / world)
