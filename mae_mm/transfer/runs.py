"""One run of a comparison: train, evaluate, draw; in a process of its own."""

import inspect
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.datasets.limits import open_image
from mae_mm.engine import runner as launch
from mae_mm.paths import ROOT


class Metric(NamedTuple):
    """A column of results."""

    title: str
    factor: float = 1.0  # from the evaluator's value to percent


class Protocol(NamedTuple):
    """One way to use a checkpoint, and its other side."""

    title: str
    random: str | None  # config of the run from random weights, if there is one
    mae: str  # config of the run from the checkpoint
    options: dict = {}  # of `--cfg-options`, for both
    cost: float = 1.0  # of a whole run, relative to the other protocols
    measure: Callable[[Config, str | None], dict[str, float]] | None = None  # instead of training; gives the metrics
    published: dict[str, float] = {}  # what the paper reports from MAE, in percent, by metric
    at: float | None = None  # its place on the axis of the suite's plot


class Job(NamedTuple):
    """What a worker needs to make a run."""

    name: str
    cfg: Config
    pretrained: str | None
    protocol: Protocol
    metrics: dict[str, Metric]
    draw: bool = False  # predictions, as pictures, and keep the weights, as final.pth
    gpus: int = 0


def start_worker(threads: int) -> None:
    """Prepare a process for runs: its threads, and its end when the process that started it ends, however it does."""
    torch.set_num_threads(threads)

    def follow() -> None:
        parent_process().join()
        os._exit(1)  # a signal would be taken for a wish to end the training in good order

    Thread(target=follow, daemon=True).start()


def make_run(job: Job, progress: dict[str, float]) -> dict:
    """Make one run, with its log in `log.txt` of its folder.

    Returns:
        metrics: {metric: percent} on the held-out images at the end; train_images, val_images: how many; seconds.
    """
    folder = Path(job.cfg.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    with (folder / 'log.txt').open('a', encoding='utf-8') as log, redirect_stdout(log), redirect_stderr(log):
        if job.protocol.measure:
            values, sizes = job.protocol.measure(job.cfg, job.pretrained), {}
        elif job.gpus > 1:
            values, sizes = train_distributed(job, log), {}
        else:
            values, sizes = train(job, progress)
    metrics = {name: values[name] * metric.factor for name, metric in job.metrics.items()}
    return dict(metrics=metrics, seconds=time.time() - begun, **sizes)


def train(job: Job, progress: dict[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """Train and evaluate as the config says; returns the metrics and the numbers of images."""
    if job.pretrained:
        launch.start_from(job.cfg, job.pretrained)
    # Hosts name it; of a name mmengine keeps one in a process, which would write into the folder of its first run.
    (job.cfg.get('visualizer') or {}).pop('name', None)
    runner = launch.build_runner(job.cfg)
    runner.register_hook(ReportProgress(job.name, progress))
    runner.train()
    if job.draw:
        draw_predictions(runner, Path(job.cfg.work_dir) / 'pictures')
        runner.save_checkpoint(job.cfg.work_dir, 'final.pth', save_optimizer=False, save_param_scheduler=False)
    values = {name: float(runner.message_hub.get_scalar(f'val/{name}').current()) for name in job.metrics}
    return values, dict(
        train_images=len(runner.train_dataloader.dataset), val_images=len(runner.val_dataloader.dataset))


def train_distributed(job: Job, log: object) -> dict[str, float]:
    """Train on several GPUs of this machine; the metrics are those of the last validation in the log.

    Raises:
        RuntimeError: if the training ends with an error.
    """
    config = Path(job.cfg.work_dir) / 'config.py'
    job.cfg.dump(config)
    command = ['bash', ROOT / 'tools/dist_train.sh', config, str(job.gpus), '--work-dir', job.cfg.work_dir, '--resume']
    command += ['--pretrained', job.pretrained] if job.pretrained else []
    if code := subprocess.run(command, stdout=log, stderr=log).returncode:
        raise RuntimeError(f'tools/dist_train.sh ended with exit code {code}; see {log.name}')
    return last_scalars(Path(job.cfg.work_dir))


def last_scalars(work_dir: Path) -> dict[str, float]:
    """The newest value of everything that mmengine wrote into the scalars of a work folder."""
    values = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            values.update(json.loads(line))
    return values


@torch.no_grad()
def draw_predictions(runner: Runner, folder: Path, num: int = 6) -> None:
    """Draw held-out images with what the model says of them, beside the truth where the visualiser knows how.

    Images are taken evenly from the validation set; classification has nothing to draw.
    """
    if 'out_file' not in inspect.signature(runner.visualizer.add_datasample).parameters:
        return
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    for number in range(num):
        index = (number * len(dataset) // num + number) % len(dataset)  # classes may take turns in the data
        sample = runner.model.val_step(pseudo_collate([dataset[index]]))[0]
        image = open_image(sample.img_path).convert('RGB')
        folder.mkdir(parents=True, exist_ok=True)
        runner.visualizer.add_datasample(
            sample.img_path, np.asarray(image), data_sample=sample.cpu(), out_file=str(folder / f'{number}.png'))


class ReportProgress(Hook):
    """Tell another process how far a training is, about once a second."""

    def __init__(self, name: str, progress: dict[str, float]) -> None:
        self.name, self.progress, self.told = name, progress, 0.0

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if time.time() > self.told + 1:
            self.progress[self.name] = (runner.iter + 1) / runner.max_iters
            self.told = time.time()
