"""Real runs of mmengine's Runner on six images of noise, three iterations an epoch."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

BOTH = (dict(type='mae_mm.PanelHook', num_images=4), dict(type='mae_mm.SummaryHook'))


class Noise(Dataset):
    """Six (or `num`) 32-px images in memory, and a pipeline that draws from every generator of the CPU."""

    def __init__(self, num: int = 6) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> dict:
        brightness = 60 * random.random() + 60 * np.random.rand() + 60 * torch.rand(1).item()
        img = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)) * 75 + brightness
        return dict(inputs=img.to(torch.uint8), sample_idx=i)

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'/photos/held_out/{i}.jpg')


def noise_trainer(make_mae: Callable, folder: Path) -> Callable[..., Runner]:
    """A function that trains in `folder/run`, two epochs with both hooks; keywords replace arguments of Runner."""
    def start(work_dir: str = 'run', **options) -> Runner:
        torch.manual_seed(0)
        loader = dict(
            dataset=Noise(), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'))
        arguments = dict(
            model=make_mae(), train_dataloader=loader, val_dataloader=loader, val_cfg=dict(),
            val_evaluator=dict(type='mae_mm.ReconstructionMetric'), train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=2)), custom_hooks=BOTH,
            visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
            randomness=dict(seed=0), default_scope='mmengine',
            experiment_name=f'{folder.name}_{work_dir}_{random.getrandbits(64)}')
        runner = Runner(work_dir=str(folder / work_dir), **{**arguments, **options})
        runner.train()
        return runner
    return start


def log_of(runner: Runner) -> str:
    """What the run wrote to its log file."""
    return next(Path(runner.log_dir).glob('*.log')).read_text()
