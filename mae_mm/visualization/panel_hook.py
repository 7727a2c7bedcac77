"""The same held-out images, reconstructed after every validation."""

import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import Dataset

from mae_mm.registry import HOOKS
from mae_mm.visualization.panels import reconstruction_panel
from mae_mm.visualization.pictures import save


@HOOKS.register_module()
class PanelHook(Hook):
    """Show fixed held-out images under fixed masks (those of the held-out loss) after each validation.

    The panel is written to `panel.png` in the work folder and added to the visualizer, which passes it to TensorBoard,
    W&B, … where they are configured. Without validation nothing is drawn.

    Args:
        num_images: rows, evenly spaced over the validation set and loaded once.
        interval: draws after every `interval` validations, and always after the last one of a training.
    """

    priority = 'ABOVE_NORMAL'  # while averaged weights (EMAHook, NORMAL) are still in place

    def __init__(self, num_images: int = 8, interval: int = 1) -> None:
        if num_images < 1 or interval < 1:
            raise ValueError(f'num_images and interval must be 1 or more, got {num_images} and {interval}')
        self.num_images, self.interval = num_images, interval
        self.validations = 0
        self.batch: tuple[Tensor, list[int]] | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw the panel. All ranks reconstruct, because sharded models need them all; the first one writes."""
        training = isinstance(runner._train_loop, BaseLoop)  # `runner.iter` would build the loop
        self.validations += 1
        if self.validations % self.interval and training and runner.iter < runner.max_iters:
            return
        self.batch = self.batch or held_out_batch(runner.val_dataloader.dataset, self.num_images)
        panel = reconstruction_panel(runner.model, *self.batch)
        if is_main_process():
            by_iter = isinstance(runner._train_loop, IterBasedTrainLoop)
            step = 0 if not training else runner.iter if by_iter else runner.epoch
            runner.visualizer.add_image('reconstruction', panel, step=step)
            save(panel, Path(runner.work_dir) / 'panel.png')


def held_out_batch(dataset: Dataset, num_images: int) -> tuple[Tensor, list[int]]:
    """Load images evenly spaced over a data set: (N, C, H, W) uint8, and N numbers that determine their masks.

    Random numbers that the pipeline draws do not change those that training draws later.
    """
    positions = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int).tolist()
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        samples = [dataset[i] for i in positions]
    random.setstate(states[0])
    np.random.set_state(states[1])
    return (
        torch.stack([sample['inputs'] for sample in samples]),
        [int(sample.get('sample_idx', i)) for i, sample in zip(positions, samples, strict=True)])
