"""`tools/train.py --data`: pre-training on any images, a part of them held out, with their own mean and deviation."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from torch.utils.data import DataLoader
from tqdm import tqdm

from mae_mm.datasets.configs import LOADERS, datasets_of
from mae_mm.datasets.find import EXTENSIONS, find_images, write_names
from mae_mm.datasets.image_tar import find_shards
from mae_mm.datasets.split import hold_out
from mae_mm.datasets.statistics import Statistics, Summarize, merge
from mae_mm.datasets.tiled_images import TILED
from mae_mm.engine.loops.batches import SeededSamples, build_dataset
from mae_mm.engine.resume import starts_first

LISTS = ('train.txt', 'held_out.txt')  # in the work folder, one name in each line
STATISTICS = 'statistics.json'
SAMPLE = 2000  # images whose mean and deviation are taken


def use_data(cfg: Config, data: str, val_data: str | None = None, split_by: str = 'image') -> list[str]:
    """Let a pre-training config read `data`, a folder, tar or pattern of tars, and hold a part of it out.

    The two lists of names are written to the work folder. A resumed run takes them from there: images added since
    then are not used.

    Args:
        cfg: its `work_dir` is set, and `resume` if the run is resumed.
        val_data: held-out images elsewhere; all of `data` is trained on then.
        split_by: see `group_of`.

    Returns:
        Lines for the log.
    """
    check_pretraining(cfg, '--data')
    _, reader = next(datasets_of(cfg, 'train_dataloader'))
    tiles = reader.type == 'mae_mm.TiledImages'  # of few, large files
    extensions = reader.get('extensions', TILED if tiles else EXTENSIONS)
    root, work_dir = reader_of(data, '--data', extensions, tiles), Path(cfg.work_dir)
    if val_data:
        if '://' not in data + val_data:
            paths = [Path(os.path.realpath(path)) for path in (data, val_data)]
            if paths[0] in (paths[1], *paths[1].parents) or paths[1] in paths[0].parents:
                raise ValueError(
                    f'--val-data {val_data} and --data {data}: one contains the other, and held-out images would be '
                    'trained on; give separate folders, or leave --val-data out: a part is held out then')
        sides = [root, reader_of(val_data, '--val-data', extensions, tiles)]
        lines = [f'images: {data}; held-out images: {val_data}']
    else:
        files = [work_dir / name for name in LISTS]
        if cfg.get('resume') and all(file.exists() for file in files):
            lines = [f'images of {data} as {files[0]} and {files[1].name} list them: those of the run that is resumed']
        else:
            names = [*build_dataset(dict(root, type='mae_mm.ImageFolder') if tiles else dict(root)).relative_names()]
            if bad := next((name for name in names if '\n' in name), None):
                raise ValueError(f'--data {data}: {bad!r} has a line break in its name; rename it')
            split = hold_out(names, split_by, at_least=1 if tiles else 32)
            work_dir.mkdir(parents=True, exist_ok=True)
            for file, side in zip(files, split, strict=True):
                write_names(file, side)
            lines = [f'images of {data}: {len(split[0]):,} to train on, {len(split[1]):,} held out by {split_by} '
                     f'({files[0]}, {files[1].name})']
        sides = [dict(root, names=str(file)) for file in files]
    for loader, side in zip(LOADERS, (sides[0], sides[1], sides[1]), strict=True):
        for _, dataset in datasets_of(cfg, loader):
            dataset.update(side)
    for hook in cfg.get('custom_hooks') or []:
        hook.pop('next_commands', None)  # those of a demo config are for its data
    return lines


def check_pretraining(cfg: Config, flag: str) -> None:
    """Refuse a config that does not read plain images."""
    types = [dataset.get('type') for _, dataset in datasets_of(cfg, 'train_dataloader')]
    if len(types) != 1 or types[0] not in ('mae_mm.ImageFolder', 'mae_mm.ImageTar', 'mae_mm.TiledImages'):
        raise ValueError(
            f'{flag} is for pre-training, on images without labels; {cfg.filename} trains {cfg.model.type} on '
            f'{types[0] if types else "nothing"}. Labelled data: tools/transfer.py, or a config as in the README')


def reader_of(path: str, flag: str, extensions: Sequence[str] = EXTENSIONS, tiles: bool = False) -> dict:
    """The config of a data set that reads a folder of images, a tar, a folder of tars, or a pattern of tars.

    `extensions` are looked for; those that the folder has in addition to `EXTENSIONS` are set in the config. With
    `tiles` it reads tiles of the files in the folder, which have one of the `extensions`.
    """
    if tiles and os.path.isdir(path):
        return dict(type='mae_mm.TiledImages', data_root=path, extensions=[*extensions])
    if os.path.isdir(path) and (any(find_images(path, extensions)) or not find_shards(path)[1]):
        found = [one for one in extensions if one not in EXTENSIONS and any(find_images(path, (one,)))]
        more = dict(extensions=[*EXTENSIONS, *found]) if found else {}
        return dict(type='mae_mm.ImageFolder', data_root=path, **more)
    if os.path.exists(path) or '://' in path or '*' in path:
        return dict(type='mae_mm.ImageTar', data_root=path)
    raise FileNotFoundError(f'{flag} {path}: no such file or folder')


def use_statistics(cfg: Config) -> list[str]:
    """Normalise with mean and deviation of the training images, measured once in a run.

    Returns:
        Lines for the log.
    """
    check_pretraining(cfg, '--own-statistics')
    file = Path(cfg.work_dir) / STATISTICS
    if not (cfg.get('resume') and file.exists()):
        if cfg.get('resume'):
            raise ValueError(
                f'--own-statistics: the run in {cfg.work_dir} began without it ({STATISTICS} is missing); leave it out')
        found, _ = measure(next(datasets_of(cfg, 'train_dataloader'))[1], cfg.train_dataloader.num_workers)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f'{STATISTICS}.{os.getpid()}')  # several processes may write it at once
        part.write_text(json.dumps(dict(mean=found.mean, std=found.std, images=found.images)) + '\n')
        part.replace(file)
    found = json.loads(file.read_text())
    cfg.model.data_preprocessor.update(mean=found['mean'], std=found['std'])
    return [f'mean {found["mean"]} and deviation {found["std"]} of {found["images"]:,} training images ({file})']


def measure(dataset: ConfigDict, num_workers: int, images: int | None = SAMPLE) -> tuple[Statistics, list[str]]:
    """Statistics of what a data set's pipeline yields, for a fixed sample or all (None) of its images, in one pass.

    Returns:
        The statistics, and the files that cannot be read; other images stand for them.
    """
    samples = SeededSamples(build_dataset(dict(dataset, cache='none')))
    chosen = np.random.default_rng(0).permutation(len(samples))[:images].tolist()
    samples.pipeline.transforms.append(Summarize(len(chosen)))
    loader = DataLoader(  # keys are (index, seed)
        samples, sampler=[(i, i) for i in chosen], batch_size=None, num_workers=num_workers)
    rows = tqdm(loader, 'mean and deviation', unit='img', disable=None if starts_first() else True)
    found = {row['sample_idx']: row['summary'] for row in rows}  # what stands for a broken file counts once
    return merge(found.values()), samples.broken_files()
