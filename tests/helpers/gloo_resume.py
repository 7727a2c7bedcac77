"""Two gloo processes train, are stopped in the middle of an epoch, resume, and compare with those that were not.

Run by test_distributed_resume.py under torchrun: -m helpers.gloo_resume IMAGES WORK_DIR. Prints `equal` on rank 0.
"""

import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from helpers.reliability import build, different, state, tiny_config


class SignalToOne(Hook):
    """One process of the two is asked to stop."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == 4 and runner.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def config(images: Path, work: Path):
    cfg = tiny_config(images, work, **{'train_cfg.max_epochs': 3, 'default_hooks.preemption.interval': 1})
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
    return cfg


def main() -> None:
    images, work = map(Path, sys.argv[1:])
    whole = build(config(images, work / 'whole'))
    whole.train()
    try:
        build(config(images, work / 'cut'), hooks=(SignalToOne(),)).train()
        raise AssertionError('was not stopped')
    except SystemExit as stop:
        assert stop.code == 75, stop
    resumed = build(config(images, work / 'cut'), resume=True)
    assert resumed._load_from.endswith('latest.pth')
    resumed.train()
    differences = [None, None]
    dist.all_gather_object(differences, different(state(whole), state(resumed)))
    assert resumed.iter == 9 and differences == [[], []], differences
    if dist.get_rank() == 0:
        print('equal')


if __name__ == '__main__':
    main()
