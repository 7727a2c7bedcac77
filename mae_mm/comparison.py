"""Does pre-training help? Equal trainings from a checkpoint and from random weights, over several seeds."""

import copy
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import Manager, get_context
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from mae_mm import launch
from mae_mm.checkpoint import read_checkpoint

STARTS = ('random', 'mae')


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


class Suite(NamedTuple):
    """Protocols that share a task and its metrics."""

    task: str
    protocols: dict[str, Protocol]
    metrics: dict[str, Metric]  # by the evaluator's names
    note: str = ''  # a sentence under the table
    seeds: int = 3


class Run(NamedTuple):
    """One training of a suite."""

    protocol: str
    start: str  # of STARTS
    seed: int

    @property
    def name(self) -> str:
        return f'{self.protocol}_{self.start}_seed{self.seed}'


class Job(NamedTuple):
    """What a worker needs to make a run."""

    name: str
    cfg: Config
    pretrained: str | None
    protocol: Protocol
    metrics: dict[str, Metric]


def compare(
    suite: Suite, pretrained: str, out: Path, seeds: int | None = None, options: dict | None = None, workers: int = 1,
) -> dict:
    """Make the runs that are not made yet, then write `results.json` and `table.md`.

    Every run has a folder of its own in `out`: its log, its config and, once it is complete, `result.json`. A run of
    the same config and the same checkpoint is not made twice. A run that fails does not stop the others.

    Args:
        pretrained: checkpoint in any format that fits the suite's encoder.
        out: folder to write.
        seeds: runs of each kind, with seeds 0, 1, … (default: the suite's).
        options: of `--cfg-options`, for every config.
        workers: runs at a time; with more than one, each has one thread.

    Returns:
        What `results.json` holds: `results` has, for each protocol and start, a list of {metric: percent}, one for
        each seed; `failed` maps the names of failed runs to their errors.
    """
    read_checkpoint(pretrained)  # what cannot be read should not cost a first run
    checkpoint_id = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()
    seeds = seeds or suite.seeds
    runs = [Run(protocol, start, seed) for seed in range(seeds) for protocol in suite.protocols for start in STARTS]
    jobs = {run: make_job(run, suite, pretrained, out, options or {})
            for run in runs if getattr(suite.protocols[run.protocol], run.start)}
    keys = {run: hashlib.sha256(f'{job.cfg.pretty_text}{job.pretrained and checkpoint_id}'.encode()).hexdigest()
            for run, job in jobs.items()}
    results = {run: read_result(out / run.name, keys[run]) for run in jobs}
    failed = {}

    def record(run: Run, future: Future) -> None:
        if error := future.exception():
            failed[run.name] = f'{type(error).__name__}: {error}'
            return
        results[run] = future.result()
        (out / run.name / 'result.json').write_text(json.dumps(dict(key=keys[run], **results[run])))

    make_runs({run: job for run, job in jobs.items() if results[run] is None}, workers, record)
    summary = dict(
        task=suite.task, checkpoint=pretrained, checkpoint_sha256=checkpoint_id, seeds=seeds,
        **describe([results[run] for run in jobs if results[run]], jobs[next(iter(jobs))].cfg),
        results={name: {start: [results[run]['metrics'] for run in jobs if run[:2] == (name, start) and results[run]]
                        for start in STARTS} for name in suite.protocols},
        failed=failed)
    out.mkdir(parents=True, exist_ok=True)
    (out / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    (out / 'table.md').write_text(table(suite, summary))
    return summary


def make_job(run: Run, suite: Suite, pretrained: str, out: Path, options: dict) -> Job:
    """The config of a run: that of its file, but only the end is evaluated and no checkpoint is saved.

    Raises:
        FileNotFoundError: if there are no data.
    """
    protocol = suite.protocols[run.protocol]
    cfg = copy.deepcopy(launch.load_config(getattr(protocol, run.start), {**protocol.options, **options}))
    launch.check_data(cfg, ('train_dataloader', 'val_dataloader'))
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(out / run.name), run.name, 'none'
    cfg.merge_from_dict({'randomness.seed': run.seed})
    cfg.train_cfg.val_interval = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    cfg.default_hooks.checkpoint = None
    return Job(run.name, cfg, pretrained if run.start == 'mae' else None, protocol, suite.metrics)


def make_runs(jobs: dict[Run, Job], workers: int, record: Callable[[Run, Future], None]) -> None:
    """Make the runs in processes of their own, with a progress bar of all of them."""
    if not jobs:
        return
    threads = 1 if workers > 1 else torch.get_num_threads()
    total = sum(job.protocol.cost for job in jobs.values())
    layout = '{desc:<22}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}'
    with (Manager() as manager,
          tqdm(total=total, bar_format=layout, desc=f'{len(jobs)} runs', smoothing=0, file=sys.stderr) as bar):
        progress = manager.dict()
        pool = ProcessPoolExecutor(
            workers, get_context('spawn'), initializer=torch.set_num_threads, initargs=(threads, ))
        try:
            waiting = {pool.submit(make_run, job, progress): run for run, job in jobs.items()}
            while waiting:
                for future in wait(waiting, 1, FIRST_COMPLETED).done:
                    run = waiting.pop(future)
                    record(run, future)
                    progress[run.name] = 1.0
                    bar.write(f'{run.name:<26}{outcome(future, jobs[run].metrics)}', file=sys.stderr)
                done = dict(progress)
                bar.n = sum(job.protocol.cost * done.get(run.name, 0.0) for run, job in jobs.items())
                bar.refresh()
        finally:
            pool.shutdown(cancel_futures=True)


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
        else:
            values, sizes = train(job, progress)
    metrics = {name: values[name] * metric.factor for name, metric in job.metrics.items()}
    return dict(metrics=metrics, seconds=time.time() - begun, **sizes)


def train(job: Job, progress: dict[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """Train and evaluate as the config says; returns the metrics and the numbers of images."""
    if job.pretrained:
        launch.start_from(job.cfg, job.pretrained)
    runner = launch.build_runner(job.cfg)
    runner.register_hook(ReportProgress(job.name, progress))
    runner.train()
    values = {name: runner.message_hub.get_scalar(f'val/{name}').current() for name in job.metrics}
    return values, dict(
        train_images=len(runner.train_dataloader.dataset), val_images=len(runner.val_dataloader.dataset))


class ReportProgress(Hook):
    """Tell another process how far a training is, about once a second."""

    def __init__(self, name: str, progress: dict[str, float]) -> None:
        self.name, self.progress, self.told = name, progress, 0.0

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if time.time() > self.told + 1:
            self.progress[self.name] = (runner.iter + 1) / runner.max_iters
            self.told = time.time()


def outcome(future: Future, metrics: dict[str, Metric]) -> str:
    """'57.3 top-1', or why there is none."""
    if error := future.exception():
        return f'failed: {type(error).__name__}: {error}'
    values = future.result()['metrics']
    return ', '.join(f'{values[name]:.2f} {metric.title}' for name, metric in metrics.items())


def read_result(folder: Path, key: str) -> dict | None:
    """The result of a complete run with this key."""
    try:
        result = json.loads((folder / 'result.json').read_text())
    except (OSError, ValueError):
        return None
    return result if result.pop('key', None) == key else None


def describe(results: list[dict], cfg: Config) -> dict:
    """What the numbers depend on, as far as the complete runs tell."""
    known = {key: value for result in results for key, value in result.items() if key in ('train_images', 'val_images')}
    unit = 'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'
    return {**known, unit: cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters}


def table(suite: Suite, summary: dict) -> str:
    """Markdown: mean ± sample standard deviation, and the difference of the means."""
    length = next(f'{summary[unit]} {unit}' for unit in ('epochs', 'iterations') if unit in summary)
    lines = [
        f'{suite.task}: {summary.get("train_images", "?")} training and {summary.get("val_images", "?")} held-out '
        f'images, {length}, the same budget and augmentation on both sides; percent, mean ± standard deviation over '
        f'{summary["seeds"]} seeds. {suite.note}',
        '', '| | metric | from random weights | from MAE | gain |', '|---|---|---|---|---|']
    for name, row in summary['results'].items():
        for key, metric in suite.metrics.items():
            random, mae = ([result[key] for result in row[start]] for start in STARTS)
            gain = f'{statistics.mean(mae) - statistics.mean(random):+.1f}' if random and mae else '–'
            lines.append(f'| {suite.protocols[name].title} | {metric.title} | {mean_and_deviation(random)} | '
                         f'{mean_and_deviation(mae)} | {gain} |')
    lines += [f'\nFailed: {name}: {error}' for name, error in summary['failed'].items()]
    return '\n'.join(lines) + f'\n\nCheckpoint: {summary["checkpoint"]}\n'


def mean_and_deviation(values: list[float]) -> str:
    """'26.1 ± 0.5'; the deviation is left out where there is none to estimate."""
    if len(values) < 2:
        return f'{values[0]:.1f}' if values else '–'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'
