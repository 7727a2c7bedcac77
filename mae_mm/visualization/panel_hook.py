"""The same held-out images, reconstructed after every validation."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend
from torch import Tensor
from torch.utils.data import Dataset

from mae_mm.engine.hooks.validation import AfterValidation
from mae_mm.registry import HOOKS
from mae_mm.visualization.panels import reconstruction_panel
from mae_mm.visualization.pictures import save


@HOOKS.register_module()
class PanelHook(AfterValidation):
    """Show fixed held-out images under fixed masks (those of the held-out loss) after each validation.

    The panel is written to `panel.png` in the work folder and added to the visualizer, which passes it to TensorBoard,
    W&B, … where they are configured. Without validation nothing is drawn.

    Args:
        num_images: rows, evenly spaced over the validation set and loaded once.
        bands: which bands are shown, one or three, numbers from 1 or names (by default red, green and blue where
            `model.backbone.in_chans` names them, else the first three).
        interval: draws after every `interval` validations, and always after the last one of a training.
    """

    def __init__(self, num_images: int = 8, interval: int = 1, bands: Sequence[int | str] | None = None) -> None:
        if num_images < 1:
            raise ValueError(f'num_images must be 1 or more, got {num_images}')
        super().__init__(interval)
        self.num_images, self.bands = num_images, bands
        self.batch: tuple[Tensor, list[int]] | None = None

    def look(self, runner: Runner, step: int) -> None:
        """Draw the panel. All ranks reconstruct, because sharded models need them all; the first one writes."""
        self.batch = self.batch or held_out_batch(runner.val_dataloader.dataset, self.num_images)
        panel = reconstruction_panel(runner.model, *self.batch, bands=self.bands)
        if is_main_process():
            for backend in runner.visualizer._vis_backends.values():
                mlflow = isinstance(backend, MLflowVisBackend)  # its images have no step and need an extension
                backend.add_image(f'reconstruction_{step}.png' if mlflow else 'reconstruction', panel, step=step)
            save(panel, Path(runner.work_dir) / 'panel.png')


def held_out_batch(dataset: Dataset, num_images: int) -> tuple[Tensor, list[int]]:
    """Load images evenly spaced over a data set: (N, C, H, W) uint8, and N numbers that determine their masks.

    Of images of several sizes, those of the size that most of them have.
    """
    positions = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int).tolist()
    samples = [dataset[i] for i in positions]
    shape = Counter(sample['inputs'].shape for sample in samples).most_common(1)[0][0]
    kept = [(i, sample) for i, sample in zip(positions, samples, strict=True) if sample['inputs'].shape == shape]
    return (
        torch.stack([sample['inputs'] for _, sample in kept]),
        [int(sample.get('sample_idx', i)) for i, sample in kept])
