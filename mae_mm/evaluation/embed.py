"""`tools/embed.py`: features of any number of images, in memory that does not grow with it."""

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm import tqdm

from mae_mm.datasets.find import EXTENSIONS
from mae_mm.datasets.limits import exceeds_share
from mae_mm.engine.loops.batches import (
    REPLACEMENTS,
    build_dataset,
    check_shared_memory,
    is_unreadable,
    killed_workers,
    start_worker,
)
from mae_mm.engine.own_data import reader_of
from mae_mm.evaluation.encoder import Encoder
from mae_mm.evaluation.feature_file import UNREADABLE, FeatureFile
from mae_mm.stopping import TrainingStopped, UnreadableData


class Images(Dataset):
    """All images in files, folders, tars and patterns of tars, in this order, as an encoder takes them.

    A sample is the image, (C, height, width) uint8, or the reason why it cannot be read.
    """

    def __init__(self, paths: Sequence[str], encoder: Encoder) -> None:
        self.load = encoder.load
        extensions = EXTENSIONS if self.load.channels != 'unchanged' else (*EXTENSIONS, '.npy', '.dcm')
        configs = []
        for path in paths:
            if os.path.isfile(path) and path.lower().endswith(extensions):
                if not (configs and 'names' in configs[-1]):
                    configs.append(dict(type='mae_mm.ImageFolder', data_root='.', names=[]))
                configs[-1]['names'].append(path)
            else:
                configs.append(reader_of(path, 'images'))
        self.data = ConcatDataset([
            build_dataset(dict(config, extensions=extensions, pipeline=[self.load])) for config in configs])

    def __len__(self) -> int:
        return len(self.data)

    def source(self, index: int) -> dict:
        """Where the transforms find an image."""
        part = int(np.searchsorted(self.data.cumulative_sizes, index, side='right'))
        return self.data.datasets[part].get_data_info(index - ([0, *self.data.cumulative_sizes][part]))

    def name(self, index: int) -> str:
        """The path of an image as it was given, with what lies below; TAR/MEMBER for those in tars."""
        return self.source(index)['img_path'].removeprefix('./')

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.load(self.source(index))['inputs']
        except Exception as error:
            if not is_unreadable(error):
                raise
            return ' '.join(f'{error}'.split())


def collate(samples: Sequence[Tensor | str]) -> tuple[Tensor, dict[int, str]]:
    """A batch: the readable images, (N, C, height, width), and place -> reason of the others."""
    images = [sample for sample in samples if not isinstance(sample, str)]
    reasons = {place: sample for place, sample in enumerate(samples) if isinstance(sample, str)}
    return torch.stack(images) if images else torch.empty(0), reasons


def made_by(encoder: Encoder, images: Images, **options: object) -> dict:
    """What determines the features: weights, options, and the names of the images, but not their content."""
    names = hashlib.sha256()
    for i in range(len(images)):
        name = images.name(i)
        if '\n' in name:
            raise ValueError(f'{name!r} has a line break in its name; rename it')
        names.update(os.fsencode(f'{name}\n'))
    return dict(
        images=len(images), names=names.hexdigest()[:12], weights=encoder.fingerprint()[:12], img_size=encoder.img_size,
        dtype=str(encoder.dtype).removeprefix('torch.'), **options)


def check_unreadable(file: FeatureFile, total: int, in_a_row: int, max_bad: float) -> None:
    """Stop for too many unreadable images, by the rule of training."""
    listed = file.folder / UNREADABLE
    if in_a_row >= REPLACEMENTS:
        raise UnreadableData(
            f'{in_a_row} images in a row cannot be read ({listed} lists them). Is their folder still there? The same '
            'command tries them again')
    if exceeds_share(len(file.unreadable), total, max_bad):
        raise TrainingStopped(
            f'{len(file.unreadable)} of {total} images could not be read so far, more than the tolerated share of '
            f'{max_bad:.2%}; listed in {listed}. Tolerate more, and the same command continues: --max-bad '
            f'{min(1.0, 1.5 * len(file.unreadable) / total):.2g}; or '
            'repair them, or take them away, and start anew with --overwrite')


def embed(
    encoder: Encoder, images: Images, out: str | Path, pool: str = 'mean', blocks: int = 1, batch_size: int = 64,
    workers: int = 0, max_bad: float = 0.01, overwrite: bool = False,
) -> FeatureFile:
    """Write the features of all images to a file; what an interrupted call with the same arguments wrote is kept.

    Args:
        out, overwrite: see `FeatureFile`. `batch_size`, `workers` and `max_bad` may change when a run continues.
        pool, blocks: see `Encoder.features`.
        max_bad: share of the images that may be unreadable; one always may.

    Raises:
        TrainingStopped: for more unreadable images, or a hundred in a row.
        ValueError: if `out` belongs to other images, weights or options.
    """
    blank = torch.zeros(encoder.backbone.in_chans, *encoder.img_size, dtype=torch.uint8)
    row = encoder.features(blank[None], pool, blocks).shape[1:]
    file = FeatureFile(out, row, made_by(encoder, images, pool=pool, blocks=blocks), overwrite)
    if file.complete:
        print(f'complete before: {file}')
        return file
    if file.position:
        print(f'continuing at image {file.position + 1:,} of {len(images):,}')
    loader = DataLoader(
        images, sampler=range(file.position, len(images)), batch_size=batch_size, collate_fn=collate,
        num_workers=workers, worker_init_fn=start_worker)
    check_shared_memory(loader, blank)
    begun, start, in_a_row = time.monotonic(), file.position, 0
    progress = tqdm(total=len(images), initial=start, unit=' images', smoothing=0.05, disable=None)
    with closing(file), progress, killed_workers('lower --workers or --batch-size; the same command continues'):
        for imgs, reasons in loader:
            names = [images.name(file.position + i) for i in range(len(imgs) + len(reasons))]
            unreadable = [(file.position + i, names[i], reason) for i, reason in reasons.items()]
            rows = encoder.features(imgs, pool, blocks).cpu().numpy() if len(imgs) else np.empty((0, *row))
            file.append(rows, [name for i, name in enumerate(names) if i not in reasons], unreadable)
            last = next((i for i in reversed(range(len(names))) if i not in reasons), None)  # readable one
            in_a_row = in_a_row + len(names) if last is None else len(names) - 1 - last
            check_unreadable(file, len(images), in_a_row, max_bad)
            if not in_a_row:  # if the folder vanishes, its images are tried again
                file.save()
            progress.update(len(names))
        if not file.count:
            raise ValueError(f'none of {len(images)} images could be read: {reasons[0]}')
        file.finish()
    seconds = time.monotonic() - begun
    print(f'{len(images) - start:,} images in {seconds:.0f} s, {(len(images) - start) / seconds:.0f} images/s\n{file}')
    return file
