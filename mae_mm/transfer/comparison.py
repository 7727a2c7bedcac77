"""Does pre-training help? Equal trainings from a checkpoint and from random weights, over several seeds."""

import hashlib
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import product
from multiprocessing import Manager, active_children, get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from mmengine.config import Config
from tqdm import tqdm

from mae_mm.checkpoint import read_checkpoint
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.transfer.runs import Job, Metric, Protocol, make_run, start_worker

STARTS = ('random', 'mae')
R = TypeVar('R')  # a run, named by `Run` or `ablation.Stage`


class Suite(NamedTuple):
    """Protocols that share a task and its metrics."""

    task: str
    protocols: dict[str, Protocol]
    metrics: dict[str, Metric]  # by the evaluator's names
    note: str = ''  # a sentence under the table
    seeds: int = 3
    starts: tuple[str, ...] = STARTS  # sides to run
    save: bool = False  # long runs: keep checkpoints, and go on inside a run
    axis: str = ''  # of a plot of the first metric, for protocols that have a place on it


class Run(NamedTuple):
    """One training of a suite."""

    protocol: str
    start: str  # of STARTS
    seed: int

    @property
    def name(self) -> str:
        return f'{self.protocol}_{self.start}_seed{self.seed}'


def compare(
    suite: Suite, pretrained: str, out: Path, seeds: int | None = None, options: dict | None = None, workers: int = 1,
    gpus: int = 0,
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
        gpus: train each run on so many GPUs with `tools/dist_train.sh`; 0 and 1 train in a process of this machine.

    Raises:
        ValueError: if a folder holds checkpoints of another run.

    Returns:
        What `results.json` holds: `results` has, for each protocol and start, a list of {metric: percent}, one for
        each seed; `failed` maps the names of failed runs to their errors.
    """
    read_checkpoint(pretrained)  # what cannot be read should not cost a first run
    checkpoint_id = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()
    seeds = seeds or suite.seeds
    runs = [Run(*kind) for kind in product(suite.protocols, suite.starts, range(seeds))]
    runs.sort(key=lambda run: run.seed)  # a first answer for each protocol before the repetitions
    jobs = {run: make_job(run, suite, pretrained, out, options or {}, gpus)
            for run in runs if getattr(suite.protocols[run.protocol], run.start)}
    keys = {run: hashlib.sha256(f'{job.cfg.pretty_text}{job.pretrained and checkpoint_id}'.encode()).hexdigest()
            for run, job in jobs.items()}
    results, errors = complete(jobs, keys, workers)
    summary = dict(
        task=suite.task, checkpoint=pretrained, checkpoint_sha256=checkpoint_id, seeds=seeds,
        **describe(list(results.values()), [job.cfg for job in jobs.values()]),
        results={name: {start: [result['metrics'] for run, result in results.items() if run[:2] == (name, start)]
                        for start in STARTS} for name in suite.protocols},
        failed={run.name: error for run, error in errors.items()})
    out.mkdir(parents=True, exist_ok=True)
    (out / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    (out / 'table.md').write_text(table(suite, summary))
    return summary


def make_job(run: Run, suite: Suite, pretrained: str | None, out: Path, options: dict, gpus: int) -> Job:
    """What a run needs: the config of its file; in short suites only the end is evaluated, and nothing is saved.

    Raises:
        FileNotFoundError: if there are no data.
        ValueError: if training ends before a scheduler begins.
    """
    protocol = suite.protocols[run.protocol]
    cfg = launch.load_config(getattr(protocol, run.start), {**protocol.options, **options})
    launch.check_schedule(cfg)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(out / run.name), run.name, 'none'
    cfg.merge_from_dict({'randomness.seed': run.seed})
    if suite.save:
        cfg.resume = True
    else:
        cfg.train_cfg.val_interval = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
        cfg.default_hooks.checkpoint = None
    start = pretrained if run.start == 'mae' else None
    return Job(run.name, cfg, start, protocol, suite.metrics, draw=run.seed == 0 and run.start == 'mae', gpus=gpus)


def complete(jobs: dict[R, Job], keys: dict[R, str], workers: int) -> tuple[dict[R, dict], dict[R, str]]:
    """Make the runs that have no result of this key in their folder yet.

    Args:
        jobs: run, something with a `name`, -> job.
        keys: run -> a hash of all that its result depends on.

    Returns:
        Run -> result, and run -> error of those that failed; results in the order of the jobs.

    Raises:
        ValueError: if a folder holds checkpoints of another run.
    """
    results = {run: read_result(Path(job.cfg.work_dir), keys[run]) for run, job in jobs.items()}
    missing = {run: job for run, job in jobs.items() if results[run] is None}
    errors = {}
    for run, job in missing.items():
        claim(Path(job.cfg.work_dir), keys[run])

    def record(run: R, future: Future) -> None:
        if error := future.exception():
            errors[run] = f'{type(error).__name__}: {error}'
            return
        results[run] = future.result()
        (Path(jobs[run].cfg.work_dir) / 'result.json').write_text(json.dumps(dict(key=keys[run], **results[run])))

    make_runs(missing, workers, record)
    return {run: result for run, result in results.items() if result}, errors


def make_runs(jobs: dict[R, Job], workers: int, record: Callable[[R, Future], None]) -> None:
    """Make the runs in processes of their own, with a progress bar of all of them."""
    if not jobs:
        return
    threads = 1 if workers > 1 else torch.get_num_threads()
    total = sum(job.protocol.cost for job in jobs.values())
    layout = '{desc:<22}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}'
    with (Manager() as manager,
          tqdm(total=total, bar_format=layout, desc=f'{len(jobs)} runs', smoothing=0, file=sys.stderr) as bar):
        progress = manager.dict()
        pool = ProcessPoolExecutor(workers, get_context('spawn'), initializer=start_worker, initargs=(threads, ))
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
        except BaseException:  # Ctrl-C, say: nobody waits for runs that are made anew in any case
            for child in active_children():
                child.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def outcome(future: Future, metrics: dict[str, Metric]) -> str:
    """'57.3 top-1', or why there is none."""
    if error := future.exception():
        return f'failed: {type(error).__name__}: {error}'
    values = future.result()['metrics']
    return ', '.join(f'{values[name]:.2f} {metric.title}' for name, metric in metrics.items())


def claim(folder: Path, key: str) -> None:
    """Mark a folder as that of a run, whose checkpoints the next start resumes.

    Raises:
        ValueError: if checkpoints of another run lie there: resumed, they would give its results under this one's name.
    """
    mark = folder / 'key.txt'
    if (folder / 'last_checkpoint').exists() and (not mark.exists() or mark.read_text() != key):
        raise ValueError(
            f'{folder} holds checkpoints of a run of another config or from another checkpoint; choose another --out, '
            'or remove that folder')
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)


def read_result(folder: Path, key: str) -> dict | None:
    """The result of a complete run with this key."""
    try:
        result = json.loads((folder / 'result.json').read_text())
    except (OSError, ValueError):
        return None
    return result if result.pop('key', None) == key else None


def describe(results: list[dict], cfgs: list[Config]) -> dict:
    """What the numbers depend on: images as far as the complete runs tell, and the length, if they share one."""
    known = {key: value for result in results for key, value in result.items() if key in ('train_images', 'val_images')}
    lengths = {(unit, cfg.train_cfg[f'max_{unit}']) for cfg in cfgs for unit in ('epochs', 'iters')
               if cfg.train_cfg.get(f'max_{unit}')}
    return known | (dict(lengths) if len(lengths) == 1 else {})


def table(suite: Suite, summary: dict) -> str:
    """Markdown: mean ± sample standard deviation, and the difference of the means."""
    lines = [caption(suite, summary), '']
    for i, row in enumerate(rows(suite, summary)):
        lines += [f'| {" | ".join(row)} |'] + ['|---' * len(row) + '|'] * (i == 0)
    lines += [f'\nFailed: {name}: {error}' for name, error in summary['failed'].items()]
    return '\n'.join(lines) + f'\n\nCheckpoint: {summary["checkpoint"]}\n'


def caption(suite: Suite, summary: dict) -> str:
    """What was compared, in a sentence or two."""
    length = ''.join(f', {summary[unit]} {unit}' for unit in ('epochs', 'iters') if unit in summary)
    images = ''
    if 'train_images' in summary:
        images = f'{summary["train_images"]} training and {summary["val_images"]} held-out images'
    budget = ', the same budget and augmentation on both sides' if len(suite.starts) > 1 else ''
    spread = f', mean ± standard deviation over {summary["seeds"]} seeds' if summary['seeds'] > 1 else ''
    return f'{suite.task}: {images}{length}{budget}; percent{spread}. {suite.note}'.replace(': , ', ': ').strip()


def rows(suite: Suite, summary: dict) -> list[list[str]]:
    """The cells of the table, headings first."""
    published = any(protocol.published for protocol in suite.protocols.values())
    table = [['', 'metric', 'from random weights', 'from MAE', 'gain', *['published'] * published]]
    for name, row in summary['results'].items():
        protocol = suite.protocols[name]
        for key, metric in suite.metrics.items():
            random, mae = ([result[key] for result in row[start]] for start in STARTS)
            gain = f'{statistics.mean(mae) - statistics.mean(random):+.1f}' if random and mae else '–'
            cells = [protocol.title, metric.title, mean_and_deviation(random), mean_and_deviation(mae), gain]
            table.append(cells + [str(protocol.published.get(key, '–'))] * published)
    return table


def mean_and_deviation(values: list[float]) -> str:
    """'26.1 ± 0.5'; the deviation is left out where there is none to estimate."""
    if len(values) < 2:
        return f'{values[0]:.1f}' if values else '–'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'
