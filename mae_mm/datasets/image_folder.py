"""Any folder of images, unlabelled."""

import copy
import hashlib
import logging
import math
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mae_mm.datasets.buckets import join_small, nearest_sizes
from mae_mm.datasets.cache import ImageCache
from mae_mm.datasets.find import EXTENSIONS, find_images, on_disk, read_names
from mae_mm.datasets.transforms import resize
from mae_mm.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Every image below a folder: flat, nested, or ImageNet's class folders, whose names are ignored.

    A sample is `dict(inputs, img_path, sample_idx)`: (C, H, W) uint8, str, int. A file that cannot be decoded raises a
    `DecodeError`; the loops of mae_mm replace it (`ReadableSamples`). Paths take their own bytes and 8 more each, in
    two arrays that forked workers share (the buffers in which BaseDataset keeps its pickles).

    Args:
        data_root: the folder.
        pipeline: transforms, the first of them one of `mae_mm.Load…`.
        cache: 'none', or 'memory' to keep decoded images in memory that all training processes of a machine and their
            workers share. They fill it together at the start; what does not fit is decoded each time.
        cache_gb: size of that memory, in 10^9 bytes for each machine.
        cache_short_side: pixels to which the short side of a larger image is reduced before it is cached. By default
            images are cached as they are, and samples do not depend on the cache.
        crop_sizes: several (height, width) in pixels: each image gets the one of the nearest aspect in place of the
            `size` of its transform. Loaders need `batch_sampler=dict(type='mae_mm.BucketBatchSampler')`.
        extensions: file names to take, in lower case; add '.npy' for arrays.
        names: use only these images: their paths relative to `data_root`, or a text file that has one in each line. The
            folder is not searched then.
        indices: use the first n images (the last, if negative), or those at these positions.
        metainfo, test_mode, lazy_init: as in BaseDataset.
    """

    def __init__(
            self, data_root: str, pipeline: Sequence[dict | Callable] = (), cache: str = 'none', cache_gb: float = 8.0,
            cache_short_side: int | None = None, crop_sizes: Sequence[tuple[int, int]] = (),
            extensions: Sequence[str] = EXTENSIONS,
            names: str | os.PathLike | Sequence[str] | None = None, indices: int | Sequence[int] | None = None,
            metainfo: dict | None = None, test_mode: bool = False, lazy_init: bool = False) -> None:
        if cache not in ('none', 'memory'):
            raise ValueError(f"cache is {cache!r}; choose 'none' or 'memory'")
        if not cache_gb > 0:
            raise ValueError(f'cache_gb={cache_gb} must be above 0')
        self.extensions, self.names, self.cache, self.cache_short_side = extensions, names, None, cache_short_side
        self.crop_sizes, self._bucket_of = [tuple(size) for size in crop_sizes], None
        self._max_cache_bytes = int(cache_gb * 1e9) if cache == 'memory' else 0
        super().__init__(
            data_root=os.fspath(data_root) or '.', pipeline=list(pipeline), indices=indices, metainfo=metainfo,
            test_mode=test_mode, lazy_init=lazy_init)

    def full_init(self) -> None:
        """Find the files and fill the cache."""
        if self._fully_initialized:
            return
        first_n = self._indices if isinstance(self._indices, int) and self._indices > 0 else None
        self.data_bytes, self.data_address = self._find(first_n)
        self.chosen = self._choose()
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)
        if self.crop_sizes:
            self._bucket_of = np.zeros(len(self.data_address), np.uint8)
            self._bucket_of[self.chosen] = nearest_sizes(self._source, self.chosen, self.crop_sizes)
            self._log_buckets()
        if self._max_cache_bytes:
            self._fill_cache()

    def _find(self, first_n: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Find the images; returns their joined paths (uint8) and the end of each (int64)."""
        paths, ends = bytearray(), array('q')
        exists = os.path.isdir(self.data_root)
        found = read_names(self.names) if self.names is not None else find_images(self.data_root, self.extensions)
        for path in islice(found if exists else (), first_n):
            if self.names is not None and not path.isascii():
                path = os.path.relpath(on_disk(os.path.join(self.data_root, path)), self.data_root)
            paths += os.fsencode(path)
            ends.append(len(paths))
        if not ends:
            root = os.path.abspath(self.data_root)
            found = f'no image ({" ".join(self.extensions)})' if exists else 'no such folder'
            raise FileNotFoundError(
                f'{root}: {found}. Expected images in this folder or in folders below it, for example '
                f'{root}/any_name/1.jpg. To make the demo data: python tools/make_demo_data.py --out data/demo')
        return np.frombuffer(paths, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)

    def _choose(self) -> Sequence[int]:
        """The images of this subset, as positions in the data."""
        return range(len(self.data_address))

    def _fill_cache(self) -> None:
        load = getattr(self.pipeline.transforms[0], 'load', None) if self.pipeline.transforms else None
        if load is None:
            raise ValueError(f"cache='memory' needs a mae_mm.Load… transform first in the pipeline: {self.pipeline}")

        def load_small(i: int) -> np.ndarray:
            img = load(self._source(i))
            factor = (self.cache_short_side or math.inf) / min(img.shape[:2])
            if factor >= 1:
                return img
            return resize(img, [round(side * factor) for side in img.shape[:2]]).permute(1, 2, 0).numpy()

        start, size = time.perf_counter(), f'cache_gb={self._max_cache_bytes / 1e9:g}'
        content = hashlib.sha256(os.fsencode(self.data_root))
        for part in (self.data_bytes, self.data_address, np.asarray(self.chosen)):
            content.update(part)
        self.cache = ImageCache(load_small, self.chosen, self._max_cache_bytes, content.hexdigest())
        message = (
            f'{self.data_root}: {len(self.cache)} of {len(self)} images in memory, {self.cache.used / 1e9:.3g} GB, '
            f'{time.perf_counter() - start:.1f} s' + (f'; {size} is full' if self.cache.full else ''))
        print_log(message, 'current', logging.WARNING if self.cache.full else logging.INFO)

    @property
    def buckets(self) -> np.ndarray | None:
        """The position in `crop_sizes` of the size of each image, (N,) uint8."""
        return None if self._bucket_of is None else self._bucket_of[self.chosen]

    def join_small_buckets(self, smallest: int) -> None:
        """Let sizes with fewer than `smallest` images join their nearest ones."""
        before = self.buckets
        self._bucket_of[self.chosen] = join_small(before, self.crop_sizes, smallest)
        if (self.buckets != before).any():
            self._log_buckets(f', as sizes with fewer than {smallest} join the nearest')

    def _log_buckets(self, reason: str = '') -> None:
        counts = np.bincount(self.buckets, minlength=len(self.crop_sizes)).tolist()
        sizes = ', '.join(
            f'{height}x{width}: {count:,}' for (height, width), count in zip(self.crop_sizes, counts, strict=True))
        level = logging.INFO if all(counts) else logging.WARNING
        print_log(f'{self.data_root}: images by size, height x width: {sizes}{reason}', 'current', level)

    def _source(self, i: int) -> dict:
        """Where the transforms find the i-th image of the data."""
        return {'img_path': os.path.join(self.data_root, self._name(i))}

    def _name(self, i: int) -> str:
        start = self.data_address[i - 1] if i else 0
        return os.fsdecode(self.data_bytes[start:self.data_address[i]].tobytes())

    def relative_names(self) -> Iterator[str]:
        """What `names` calls the images, in order."""
        return map(self._name, self.chosen)

    def __len__(self) -> int:
        self.full_init()
        return len(self.chosen)

    def get_data_info(self, idx: int) -> dict:
        idx = range(len(self))[idx]  # an IndexError beyond the end
        info = {**self._source(self.chosen[idx]), 'sample_idx': idx}
        if self._bucket_of is not None:
            info['size'] = self.crop_sizes[self._bucket_of[self.chosen[idx]]]
        return info

    def prepare_data(self, idx: int) -> dict:
        """Run the pipeline; raises a DecodeError if the file cannot be read."""
        results = self.get_data_info(idx)
        if self.cache is not None:
            results['decoded'] = self.cache.get(self.chosen[results['sample_idx']])
        results = self.pipeline(results)
        for key in ('crop', 'flip', 'size'):  # how the view was made is not part of a batch
            results.pop(key, None)
        return results

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep the images that `indices` of the constructor would."""
        self.full_init()
        if isinstance(indices, int):
            self.chosen = self.chosen[:indices] if indices >= 0 else self.chosen[indices:]
        else:
            self.chosen = np.array([self.chosen[i] for i in indices], dtype=np.int64)

    def get_subset(self, indices: int | Sequence[int]) -> 'ImageFolder':
        other = copy.copy(self)
        other.get_subset_(indices)
        return other
