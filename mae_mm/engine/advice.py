"""What is likely to go wrong in a pre-training on few images, before its first step. Measured: docs/own_data.md."""

import math
from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mae_mm.datasets.pixel_files import source_size

STEPS = 2000  # below, the held-out loss still falls fast at demo scale
PROBED = 64  # images whose size is looked at


def good_lr(batch: int) -> float:
    """The paper's lr, 2.4e-3 for batches of 4096 images, by the square-root rule of Adam (arXiv:2205.10287)."""
    return float(f'{2.4e-3 * math.sqrt(batch / 4096):.0e}')


def lr_options(lr: float) -> str:
    return f'optim_wrapper.optimizer.lr={lr:g} auto_scale_lr.enable=False'


def start_of(runner: Runner) -> tuple[float, int]:
    """The highest lr of a training, and the images of a step: all processes, accumulated batches, repeated views."""
    optim, loader = runner.optim_wrapper, runner.train_dataloader
    views = getattr(_first_transform(loader), 'repeats', 1)
    batch = loader.batch_sampler.batch_size * get_world_size() * views * getattr(optim, '_accumulative_counts', 1)
    return max(group.get('initial_lr', group['lr']) for group in optim.optimizer.param_groups), batch


def _first_transform(loader: Sized) -> object:
    """The first transform of a loader's data set; None if it has none."""
    return next(iter(getattr(getattr(loader.dataset, 'pipeline', None), 'transforms', ())), None)


def what_to_try(lr: float, batch: int, runner: Runner) -> list[str]:
    """After a run that has not learned enough: its lr, and options for the next one."""
    good, steps = good_lr(batch), max(2 * runner.max_iters, 2 * STEPS)
    other = float(f'{3 * lr:.0e}') if good <= lr <= 10 * good else good
    longer = f'train_cfg.max_iters={steps}'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        longer = f'train_cfg.max_epochs={math.ceil(steps / len(runner.train_dataloader))}'
    return [
        f'It used lr {lr:.3g} in {runner.max_iters:,} batches of {batch}. Start again (--work-dir NEW), longer or with '
        'another lr:', f'  --cfg-options {longer}', f'  --cfg-options {lr_options(other)}']


def advise(runner: Runner) -> Iterator[str]:
    """Advice for a pre-training by epochs that is about to begin; nothing if there is none."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return
    loader, epochs, (lr, batch) = runner.train_dataloader, runner.max_epochs, start_of(runner)
    images, per_epoch = len(loader.dataset), len(loader)
    smaller = min(batch, max(8, 2 ** int(math.log2(max(images / 20, 1)))) if per_epoch < 10 else batch)
    if smaller < batch:
        size = max(1, smaller * loader.batch_sampler.batch_size // batch)
        yield (f'batches of {batch} leave {per_epoch} steps for each epoch of {images:,} images: '
               f'train_dataloader.batch_size={size}')
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    fresh = not (model.init_cfg or model.backbone.init_cfg)
    if fresh and per_epoch * epochs < STEPS:
        yield (f'{images:,} images x {epochs} epochs are only {per_epoch * epochs:,} steps of {batch}: '
               f'train_cfg.max_epochs={math.ceil(2 * STEPS * smaller / images)}'
               + f' with batches of {smaller}' * (smaller < batch))
    if fresh and lr < good_lr(batch) / 4:
        yield f'lr {lr:.3g} is low for batches of {batch}: {lr_options(good_lr(batch))}'
    if hasattr(model.backbone, 'patch_size'):  # a ViT
        yield from _advise_on_size(
            loader.dataset, getattr(_first_transform(loader), 'size', None), model.backbone.patch_size)


def _advise_on_size(dataset: Sized, crop: tuple[int, int] | None, patch_size: int) -> Iterator[str]:
    """Advice if most images are smaller than the crops, (height, width), that they are enlarged to."""
    sides = []
    for i in np.linspace(0, len(dataset) - 1, PROBED, dtype=int).tolist() if crop else ():
        source = dataset.get_data_info(i)
        if 'part' in source:  # a tile
            sides.append(min(source['part'][3:]))
            continue
        try:
            sides.append(min(source_size(source)))
        except OSError:  # reported when it is used
            continue
    if sides and (median := np.median(sides)) < min(crop):
        patch = next((one for one in (patch_size, 8, 4) if median >= 6 * one), 2)
        side = max(int(median // patch), 2) * patch
        pipelines = ''.join(f' {one}_dataloader.dataset.pipeline.0.size={side}' for one in ('train', 'val'))
        yield (
            f'most images are smaller than the crops of {crop[0]}x{crop[1]} pixels ({median:.0f} in the median): '
            f'model.backbone.img_size={side}' + pipelines
            + f' model.backbone.patch_size={patch}' * (patch != patch_size))
