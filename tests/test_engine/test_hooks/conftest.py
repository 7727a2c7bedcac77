import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.noise_runs import BOTH, Noise
from mmengine.runner import Runner


@pytest.fixture
def run(make_mae: Callable, tmp_path: Path) -> Callable[..., Runner]:
    """A function that trains in `tmp_path/run`, two epochs with both hooks; keywords replace arguments of Runner."""
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
            experiment_name=f'{tmp_path.name}_{work_dir}_{random.getrandbits(64)}')
        runner = Runner(work_dir=str(tmp_path / work_dir), **{**arguments, **options})
        runner.train()
        return runner
    return start
