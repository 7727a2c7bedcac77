"""Real runs of mmengine's Runner on six images of noise, three iterations an epoch."""

import random
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

BOTH = (dict(type='mae_mm.PanelHook', num_images=4), dict(type='mae_mm.SummaryHook'))


class Noise(Dataset):
    """Six 32-px images in memory, and a pipeline that draws from every generator of the CPU."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict:
        brightness = 60 * random.random() + 60 * np.random.rand() + 60 * torch.rand(1).item()
        img = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)) * 75 + brightness
        return dict(inputs=img.to(torch.uint8), sample_idx=i)

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'/photos/held_out/{i}.jpg')


def log_of(runner: Runner) -> str:
    """What the run wrote to its log file."""
    return next(Path(runner.log_dir).glob('*.log')).read_text()
