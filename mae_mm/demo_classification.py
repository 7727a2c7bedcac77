"""Does pre-training help? Every classification protocol from an MAE checkpoint, beside one from random weights."""

import copy
import hashlib
import json
import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from mae_mm import launch
from mae_mm.checkpoint import read_checkpoint
from mae_mm.knn import evaluate_encoder
from mae_mm.registry import DATASETS

CONFIGS = Path('configs/demo')
STARTS = ('random', 'mae')


class Protocol(NamedTuple):
    """One row of the table."""

    title: str
    random: str | None  # config of the run from random weights, if there is one
    mae: str  # config of the run from the checkpoint
    options: dict
    cost: float  # of the whole run, relative to full training; measured on a CPU


PROTOCOLS = {
    'finetune': Protocol('fine-tuning', 'classification_scratch', 'classification', {}, 1.0),
    'linear': Protocol('linear probing', 'classification_linear', 'classification_linear', {}, 0.45),
    'partial1': Protocol('partial fine-tuning, k = 1', None, 'classification_partial', {}, 0.5),
    'partial4': Protocol(
        'partial fine-tuning, k = 4', None, 'classification_partial', {'model.backbone.tuned_blocks': 4}, 0.8),
    'knn': Protocol('k-NN, k = 20', 'classification', 'classification', {}, 0.05),
}


class Run(NamedTuple):
    """One training, or one k-NN evaluation."""

    protocol: str
    start: str  # of STARTS
    seed: int

    @property
    def name(self) -> str:
        return f'{self.protocol}_{self.start}_seed{self.seed}'

    @property
    def config(self) -> str | None:
        return getattr(PROTOCOLS[self.protocol], self.start)


def run_demo(
    pretrained: str, out: Path, num_seeds: int = 3, options: dict | None = None, workers: int = 1,
) -> dict[str, dict[str, list[float]]]:
    """Make the runs that are not made yet, then write `table.md` and `results.json`.

    Every run has a folder of its own in `out`: its log, its config and, once it is complete, `result.json`. A run of
    the same config and the same checkpoint is not made twice.

    Args:
        pretrained: checkpoint in any format that fits the demo encoder.
        out: folder to write.
        num_seeds: runs of each kind, with seeds 0, 1, …
        options: of `--cfg-options`, for every config.
        workers: runs at a time, each with one thread; 1 makes them in this process with all threads.

    Returns:
        Accuracies in percent for each protocol and start: `{'finetune': {'random': [26.1, …], 'mae': […]}, …}`.
    """
    read_checkpoint(pretrained)  # what cannot be read should not cost a first run
    checkpoint_id = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()
    runs = [Run(protocol, start, seed) for seed in range(num_seeds) for protocol in PROTOCOLS for start in STARTS]
    runs = [run for run in runs if run.config]
    configs = make_configs(runs, out, options or {})
    weights = {run: pretrained if run.start == 'mae' else None for run in runs}
    keys = {run: hashlib.sha256(f'{configs[run].pretty_text}{weights[run] and checkpoint_id}'.encode()).hexdigest()
            for run in runs}
    results = {run: read_result(out / run.name, keys[run]) for run in runs}
    todo = [run for run in runs if results[run] is None]
    layout = '{desc:<28}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}'
    total = sum(PROTOCOLS[run.protocol].cost for run in todo)
    with tqdm(total=total, bar_format=layout, desc='runs', smoothing=0, file=sys.stderr) as bar:
        for run, accuracy in evaluate_all([(run, configs[run], weights[run]) for run in todo], workers):
            results[run] = accuracy
            (out / run.name).mkdir(parents=True, exist_ok=True)
            (out / run.name / 'result.json').write_text(json.dumps(dict(key=keys[run], top1=accuracy)))
            bar.write(f'{run.name:<24}{accuracy:6.2f} % top-1', file=sys.stderr)
            bar.update(PROTOCOLS[run.protocol].cost)
    accuracies = {name: {start: [results[run] for run in runs if run[:2] == (name, start)] for start in STARTS}
                  for name in PROTOCOLS}
    description = describe(configs[runs[0]], pretrained, checkpoint_id, num_seeds)
    (out / 'results.json').write_text(json.dumps(dict(description, accuracies=accuracies), indent=2) + '\n')
    (out / 'table.md').write_text(table(accuracies, description))
    return accuracies


def make_configs(runs: list[Run], out: Path, options: dict) -> dict[Run, Config]:
    """The config of each run: that of its file, but only the last epoch is evaluated and none is saved.

    Raises:
        FileNotFoundError: if there are no data.
    """
    files = {name: launch.load_config(str(CONFIGS / f'{name}.py')) for name in {run.config for run in runs}}
    configs = {}
    for run in runs:
        cfg = configs[run] = copy.deepcopy(files[run.config])
        cfg.merge_from_dict({**PROTOCOLS[run.protocol].options, **options})
        launch.check_data(cfg, ('train_dataloader', 'val_dataloader'))
        cfg.work_dir, cfg.experiment_name, cfg.launcher = str(out / run.name), run.name, 'none'
        cfg.randomness.seed = run.seed
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
        cfg.default_hooks.checkpoint = None
    return configs


def evaluate_all(jobs: list[tuple[Run, Config, str | None]], workers: int) -> Iterator[tuple[Run, float]]:
    """Make the runs, several at a time, and give each as it completes."""
    if workers == 1:
        yield from ((job[0], evaluate(*job)) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, get_context('spawn'), initializer=torch.set_num_threads, initargs=(1, ))
    try:
        futures = {pool.submit(evaluate, *job): job[0] for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def evaluate(run: Run, cfg: Config, pretrained: str | None) -> float:
    """Make a run, with its log in a file of its folder; returns top-1 accuracy on the held-out images, in percent."""
    folder = Path(cfg.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with output_to(folder / 'log.txt'):
        if run.protocol == 'knn':
            return evaluate_encoder(cfg, pretrained, ks=(20, ))['mean_patch/k20']
        if pretrained:
            launch.start_from(cfg, pretrained)
        runner = launch.build_runner(cfg)
        runner.train()
        return runner.message_hub.get_scalar('val/accuracy/top1').current()


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what Python prints to a file."""
    with path.open('a', encoding='utf-8') as file, redirect_stdout(file), redirect_stderr(file):
        yield


def read_result(folder: Path, key: str) -> float | None:
    """The accuracy of a complete run with this key."""
    try:
        result = json.loads((folder / 'result.json').read_text())
    except (OSError, ValueError):
        return None
    return result['top1'] if result.get('key') == key else None


def describe(cfg: Config, pretrained: str, checkpoint_id: str, num_seeds: int) -> dict:
    """What the numbers depend on."""
    init_default_scope('mmpretrain')
    train, held_out = (
        len(DATASETS.build({**cfg[loader].dataset, 'pipeline': [], 'serialize_data': False}))
        for loader in ('train_dataloader', 'val_dataloader'))
    return dict(
        checkpoint=pretrained, checkpoint_sha256=checkpoint_id, seeds=num_seeds, epochs=cfg.train_cfg.max_epochs,
        labelled_images=train, held_out_images=held_out, chance=100 / cfg.model.head.num_classes, cores=os.cpu_count())


def table(accuracies: dict[str, dict[str, list[float]]], description: dict) -> str:
    """Markdown: mean ± sample standard deviation, and the difference of the means."""
    d = description
    lines = [
        f'Top-1 accuracy on {d["held_out_images"]} held-out demo images, in percent: mean ± standard deviation over '
        f'{d["seeds"]} seeds; chance is {d["chance"]:.1f}. {d["labelled_images"]} labelled images, {d["epochs"]} '
        f'epochs, the same augmentation on both sides. Checkpoint: {d["checkpoint"]}',
        '', '| protocol | from random weights | from MAE | gain |', '|---|---|---|---|']
    for protocol, row in accuracies.items():
        cells = ' | '.join(mean_and_deviation(row[start]) for start in STARTS)
        gain = f'{statistics.mean(row["mae"]) - statistics.mean(row["random"]):+.1f}' if row['random'] else '–'
        lines.append(f'| {PROTOCOLS[protocol].title} | {cells} | {gain} |')
    return '\n'.join(lines) + '\n'


def mean_and_deviation(values: list[float]) -> str:
    """'26.1 ± 0.5'; the deviation is left out where there is none to estimate."""
    if len(set(values)) < 2:
        return f'{values[0]:.1f}' if values else '–'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'
