"""One training: its config, and what its process does: train, evaluate, draw."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.engine.reliability import make_reliable
from mae_mm.paths import ROOT
from mae_mm.transfer.types import Job
from mae_mm.visualization.panels import picture_at

DRAWN_SIDE = 320  # pixels of a picture under the text of a classifier


def transfer_config(path: str, options: dict, save: bool) -> Config:
    """The config of a transfer. Unless it saves checkpoints, only its end is evaluated."""
    cfg = launch.load_config(path, options)
    launch.check_schedule(cfg)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    if not save:
        cfg.train_cfg.val_interval = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
        cfg.default_hooks.checkpoint = None
    return cfg


def place(cfg: Config, folder: Path, seed: int) -> Config:
    """A copy of a config for one run; where it saves checkpoints, it resumes from the newest."""
    cfg = deepcopy(cfg)
    cfg.work_dir, cfg.launcher = str(folder), 'none'
    cfg.merge_from_dict({'randomness.seed': seed})
    if (cfg.get('default_hooks') or {}).get('checkpoint'):
        cfg.resume = True
    return cfg


def make_run(job: Job, report: Callable[[float], None], hooks: Sequence[Hook] = ()) -> dict:
    """Make one run, logged in `log.txt` of its folder; `report` gets the share that is done, about once a second.

    `hooks` are added to the training.

    Returns:
        `metrics` on the held-out images at the end, percent, `seconds`, and how many `train_images`, `val_images`.
    """
    begun = time.time()
    if job.pretrained and Path(job.pretrained).is_dir():
        job = job._replace(pretrained=(Path(job.pretrained) / 'last_checkpoint').read_text().strip())
    with (job.folder / 'log.txt').open('a', encoding='utf-8') as log, redirect_stdout(log), redirect_stderr(log):
        sizes = {}
        if job.measure:
            values = job.measure(job.cfg, job.pretrained)
        elif job.gpus > 1:
            values = train_distributed(job, log)
        else:
            values, sizes = train(job, report, hooks)
    metrics = {name: values[name] * metric.factor for name, metric in job.metrics.items()}
    return dict(metrics=metrics, seconds=time.time() - begun, **sizes)


def train(
    job: Job, report: Callable[[float], None], hooks: Sequence[Hook],
) -> tuple[dict[str, float], dict[str, int]]:
    """Train and evaluate as the config says; returns the metrics and the numbers of images."""
    if job.pretrained:
        launch.start_from(job.cfg, job.pretrained)
    make_reliable(job.cfg)
    runner = launch.build_runner(job.cfg)
    for hook in (ReportProgress(report), *hooks):
        runner.register_hook(hook)
    runner.train()
    if job.draw:
        draw_predictions(runner, job.folder / 'pictures')
        runner.save_checkpoint(job.cfg.work_dir, 'final.pth', save_optimizer=False, save_param_scheduler=False)
    values = {name: float(runner.message_hub.get_scalar(f'val/{name}').current()) for name in job.metrics}
    return values, dict(
        train_images=len(runner.train_dataloader.dataset), val_images=len(runner.val_dataloader.dataset))


def train_distributed(job: Job, log: object) -> dict[str, float]:
    """Train on several GPUs of this machine; the metrics are those of the last validation in the log."""
    config = job.folder / 'config.py'
    job.cfg.dump(config)
    command = ['bash', ROOT / 'tools/dist_train.sh', config, str(job.gpus), '--work-dir', job.cfg.work_dir, '--resume']
    command += ['--pretrained', job.pretrained] if job.pretrained else []
    if code := subprocess.run(command, stdout=log, stderr=log).returncode:
        raise RuntimeError(f'tools/dist_train.sh ended with exit code {code}; see {log.name}')
    return last_scalars(job.folder)


def last_scalars(work_dir: Path) -> dict[str, float]:
    """The newest value of everything that mmengine wrote into the scalars of a work folder."""
    values = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            values.update(json.loads(line))
    return values


@torch.no_grad()
def draw_predictions(runner: Runner, folder: Path, num: int = 6) -> None:
    """Draw predictions on held-out images, evenly from the validation set."""
    dataset, draw = runner.val_dataloader.dataset, runner.visualizer.add_datasample
    if hasattr(runner.visualizer, 'visualize_cls'):
        def draw(name: str, image: np.ndarray, data_sample: object, out_file: str) -> None:
            runner.visualizer.visualize_cls(image, data_sample, dataset.CLASSES, resize=DRAWN_SIDE, out_file=out_file)
    runner.model.eval()
    for number in range(num):
        index = (number * len(dataset) // num + number) % len(dataset)  # classes may take turns in the data
        sample = runner.model.val_step(pseudo_collate([dataset[index]]))[0]
        folder.mkdir(parents=True, exist_ok=True)
        image = picture_at(sample.img_path, dataset.pipeline, getattr(runner.model.backbone, 'bands', None))
        draw(sample.img_path, image, data_sample=sample.cpu(), out_file=str(folder / f'{number}.png'))


class ReportProgress(Hook):
    """Report how far a training is, about once a second."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report, self.reported = report, 0.0

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if time.time() > self.reported + 1:
            self.report((runner.iter + 1) / runner.max_iters)
            self.reported = time.time()
