"""Numbered batches: a loader can start with any of them, and draws the same views in any worker."""

import copy
import gc
import itertools
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import torch
from mmengine import registry as root
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from PIL import Image
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mae_mm.datasets.cache import SharedMemory
from mae_mm.datasets.decode import DecodeError
from mae_mm.datasets.limits import printable
from mae_mm.engine.loops.seeding import derive_seed, seed_all
from mae_mm.registry import FUNCTIONS
from mae_mm.stopping import TrainingStopped, UnreadableData

SHARED_MEMORY = '/dev/shm'  # through which workers send batches; 64 MB in a container, by default
REPLACEMENTS = 101  # images tried, one after the other, before the data must be gone


class ReadableSamples(Dataset):
    """A map-style data set whose unreadable images are replaced by the next readable one, logged once and counted.

    `UnreadableData` is raised if `REPLACEMENTS` images in a row cannot be read, or one without `replace`.
    """

    def __init__(self, dataset: Sized, replace: bool = True) -> None:
        self.dataset, self.replace = dataset, replace
        self._broken = SharedMemory(len(dataset))  # 1 where a file could not be read, in any worker

    def __getitem__(self, index: int) -> Any:
        for _ in range(REPLACEMENTS):
            try:
                return self.dataset[index]
            except Exception as error:
                if not is_unreadable(error):
                    raise
                path = self._path(index)
                text = str(error) if path in str(error) else f'{path}: {error}'
                if not self.replace:
                    raise UnreadableData(printable(
                        f'{path} cannot be read ({error}). Fix it, or remove it from the annotations: they would count '
                        'as missed; then continue with --resume')) from error
                if not self._broken.array[index]:
                    self._broken.array[index] = 1
                    print_log(printable(f'{text}; replaced by another image'), 'current', logging.WARNING)
            index = self._another(index)
        raise UnreadableData(printable(
            f'{REPLACEMENTS} images in a row cannot be read. Of the last one: {text}. If their folder is gone, '
            'bring it back; a training continues with --resume'))

    def _another(self, index: int) -> int:
        others = self._alike(index)
        return others[(others.index(index) + 1) % len(others)]

    def _alike(self, index: int) -> Sequence[int]:
        """The images that a batch can hold in place of another."""
        buckets = getattr(self.dataset, 'buckets', None)  # of mae_mm.ImageFolder
        return range(len(self.dataset)) if buckets is None else np.flatnonzero(buckets == buckets[index]).tolist()

    def _path(self, index: int) -> str:
        try:
            return str(self.dataset.get_data_info(index)['img_path'])
        except (AttributeError, KeyError, TypeError):
            return f'image {index}'

    @property
    def num_broken(self) -> int:
        """Number of files that could not be read so far, in all workers together."""
        return int(self._broken.array.sum())

    def broken_files(self) -> list[str]:
        """Their paths, or their numbers if the data set has no paths."""
        return [self._path(index) for index in np.flatnonzero(self._broken.array).tolist()]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededSamples(ReadableSamples):
    """A data set whose random transforms, and replacements of unreadable images, depend on the sample's seed alone."""

    def __init__(self, dataset: Sized, length: int | None = None) -> None:
        super().__init__(dataset)
        self.length = length

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        seed_all(seed)
        return super().__getitem__(index)

    def _another(self, index: int) -> int:
        others = self._alike(index)
        return others[np.random.randint(len(others))]

    def __len__(self) -> int:
        return len(self.dataset) if self.length is None else self.length


def is_unreadable(error: Exception) -> bool:
    """Whether an error of a pipeline means that a file cannot be read, not that the pipeline is wrong."""
    return isinstance(error, OSError | DecodeError | Image.DecompressionBombError) or (
        type(error).__module__ == 'cv2' or 'failed to load image' in str(error))  # mmcv on what OpenCV refuses


class NumberedBatches:
    """Batches of any batch sampler as (index, seed) pairs, from `start` on; each rank derives its own seed."""

    def __init__(self, batches: Any, sampler: Any, batch_size: int, seed: int) -> None:
        self.batches, self.sampler, self.batch_size = batches, sampler, batch_size
        self.seed = derive_seed(seed, get_rank())
        self.epoch = self.start = 0

    def go_to(self, epoch: int, start: int) -> None:
        """Let the next pass be that of an epoch, starting with batch `start`."""
        self.epoch, self.start = epoch, start
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for number, batch in itertools.islice(enumerate(self.batches), self.start, None):
            yield [(index, derive_seed(self.seed, epoch, number, place)) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


def build_dataset(config: dict | Sized) -> Sized:
    """The data set of a loader's config, its files found."""
    dataset = root.DATASETS.build(config) if isinstance(config, dict) else config
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset


def check_one_size(dataset: Sized, loader: str) -> None:
    """Refuse images of several sizes in one batch, before a worker fails on them."""
    buckets = getattr(dataset, 'buckets', None)
    if buckets is not None and len(np.unique(buckets)) > 1:
        raise ValueError(
            f"{loader}.dataset.crop_sizes: images of several sizes do not fit into one batch; add {loader}"
            "=dict(batch_sampler=dict(type='mae_mm.BucketBatchSampler')) to the config")


def build_loader(config: dict, dataset: Sized, seed: int) -> DataLoader:
    """A loader of mmengine's config with `NumberedBatches` and `SeededSamples`; `seed` is the same on all ranks."""
    config = copy.copy(config)
    batch_size, per_epoch = config.pop('batch_size', 1), config.pop('num_batch_per_epoch', None)
    drop_last, batches = config.pop('drop_last', False), config.pop('batch_sampler', None)
    sampler = config.pop('sampler')
    samples = SeededSamples(dataset, per_epoch and per_epoch * batch_size * get_world_size())
    if isinstance(sampler, dict):
        sampler = root.DATA_SAMPLERS.build(sampler, default_args=dict(dataset=samples, seed=seed))
    if isinstance(batches, dict):
        batches = root.DATA_SAMPLERS.build(batches, default_args=dict(sampler=sampler, batch_size=batch_size))
    elif batches is None:
        check_one_size(dataset, 'train_dataloader')
        batches = BatchSampler(sampler, batch_size, drop_last)
    for name in ('dataset', 'disable_subprocess_warning'):
        config.pop(name, None)
    return DataLoader(
        samples, batch_sampler=NumberedBatches(batches, sampler, batch_size, seed),
        collate_fn=_function(config.pop('collate_fn', dict(type='pseudo_collate'))),
        worker_init_fn=_function(config.pop('worker_init_fn', None)), **config)


def _function(config: dict | Callable | None) -> Callable | None:
    """A registered function with its keywords, from a config."""
    if not isinstance(config, dict):
        return config
    options = {key: value for key, value in config.items() if key not in ('type', '_scope_')}
    function = root.FUNCTIONS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if function is None:
        raise KeyError(f'{config["type"]} is not in the function registry')
    return partial(function, **options)


@FUNCTIONS.register_module()
def start_worker(worker_id: int) -> None:
    """Let a loader's worker ignore signals, but SIGTERM of its parent, which may need more batches before it stops."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_end_on_sigterm, args=(os.getppid(), ), daemon=True).start()


def end_workers() -> None:
    """End the workers of all loaders of this process; the garbage collector would wait 5 s for each of them."""
    for iterator in [found for found in gc.get_objects() if type(found) is _MultiProcessingDataLoaderIter]:
        iterator._shutdown_workers()


@contextmanager
def killed_workers(advice: str) -> Iterator[None]:
    """Turn the errors that a loader raises when one of its workers is killed into one `TrainingStopped`."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two while it hands over a batch
        if isinstance(error, RuntimeError) and not str(error).startswith('DataLoader worker'):
            raise
        reason = str(error).splitlines()[0] if isinstance(error, RuntimeError) else 'A DataLoader worker was killed.'
        raise TrainingStopped(f'{reason} The usual reason is too little memory: {advice}') from error


def _end_on_sigterm(parent: int) -> None:
    """Wait for a SIGTERM from the parent, then end this process."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def check_shared_memory(loader: DataLoader, sample: Any = None) -> None:
    """Warn if shared memory is small, and the batches that wait in it are larger: a worker would be killed."""
    if not loader.num_workers or not os.path.isdir(SHARED_MEMORY):
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free > 2**30:  # no container's default
        return
    leaves = tree_leaves(loader.dataset[0, 0] if sample is None else sample)
    sample = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
    batches = loader.num_workers * loader.prefetch_factor * int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    queue = sample * loader.batch_sampler.batch_size * batches
    if queue > free:
        print_log(
            f'{SHARED_MEMORY} has {free / 1e6:.0f} MB free, and up to {queue / 1e6:.0f} MB of batches wait in it; a '
            'worker that finds it full is killed ("Bus error"). Start the container with --ipc=host or --shm-size=8g, '
            'or lower the number of workers (train_dataloader.num_workers, --workers)', 'current', logging.WARNING)
