"""Does pre-training help? Every classification protocol from an MAE checkpoint, beside one from random weights."""

import copy
import hashlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
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
    random: str  # config of the run from random weights
    mae: str  # config of the run from the checkpoint
    options: dict
    cost: float  # of an epoch, relative to full training; measured on a CPU


PROTOCOLS = {
    'finetune': Protocol('fine-tuning', 'classification_scratch', 'classification', {}, 1.0),
    'linear': Protocol('linear probing', 'classification_linear', 'classification_linear', {}, 0.4),
    'partial1': Protocol(
        'partial fine-tuning, k = 1', 'classification_partial', 'classification_partial', {}, 0.5),
    'partial4': Protocol(
        'partial fine-tuning, k = 4', 'classification_partial', 'classification_partial',
        {'model.backbone.tuned_blocks': 4}, 0.8),
    'knn': Protocol('k-NN, k = 20', 'classification', 'classification', {}, 0.0),
}


class Run(NamedTuple):
    """One training, or one k-NN evaluation."""

    protocol: str
    start: str  # of STARTS
    seed: int

    @property
    def name(self) -> str:
        return f'{self.protocol}_{self.start}_seed{self.seed}'


def run_demo(pretrained: str, out: Path, num_seeds: int = 3, options: dict | None = None) -> dict[str, dict]:
    """Make the runs that are not made yet, then write `table.md` and `results.json`.

    Every run has a folder of its own in `out`: its log, its config and, once it is complete, `result.json`. A run of
    the same config and the same checkpoint is not made twice.

    Args:
        pretrained: checkpoint in any format that fits the demo encoder.
        out: folder to write.
        num_seeds: runs of each kind, with seeds 0, 1, …
        options: of `--cfg-options`, for every config.

    Returns:
        Accuracies in percent for each protocol and start: `{'finetune': {'random': [26.1, …], 'mae': […]}, …}`.
    """
    read_checkpoint(pretrained)  # what cannot be read should not cost a first run
    checkpoint_id = hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()
    runs = [Run(protocol, start, seed) for seed in range(num_seeds) for protocol in PROTOCOLS for start in STARTS]
    names = {getattr(protocol, start) for protocol in PROTOCOLS.values() for start in STARTS}
    bases = {name: launch.load_config(str(CONFIGS / f'{name}.py')) for name in names}
    configs = {run: make_config(run, bases, out, options or {}) for run in runs}
    for cfg in configs.values():
        launch.check_data(cfg, ('train_dataloader', 'val_dataloader'))
    accuracies: dict[str, dict[str, list[float]]] = {p: {s: [] for s in STARTS} for p in PROTOCOLS}
    costs = {run: PROTOCOLS[run.protocol].cost * cfg.train_cfg.max_epochs for run, cfg in configs.items()}
    layout = '{desc:<28}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}'
    with tqdm(total=sum(costs.values()), bar_format=layout, smoothing=0, file=sys.stderr) as bar:
        for run, cfg in configs.items():
            weights = pretrained if run.start == 'mae' else None
            key = hashlib.sha256(f'{cfg.pretty_text}{weights and checkpoint_id}'.encode()).hexdigest()
            result = read_result(out / run.name, key)
            if result is None:
                bar.set_description_str(run.name)
                (out / run.name).mkdir(parents=True, exist_ok=True)
                result = evaluate(run, cfg, weights, lambda cost=PROTOCOLS[run.protocol].cost: bar.update(cost))
                (out / run.name / 'result.json').write_text(json.dumps(dict(key=key, top1=result)))
                bar.write(f'{run.name:<24}{result:6.2f} % top-1', file=sys.stderr)
            else:
                bar.total -= costs[run]
            accuracies[run.protocol][run.start].append(result)
    init_default_scope('mmpretrain')
    description = describe(configs[runs[0]], pretrained, checkpoint_id, num_seeds)
    (out / 'results.json').write_text(json.dumps(dict(description, accuracies=accuracies), indent=2) + '\n')
    (out / 'table.md').write_text(table(accuracies, description))
    return accuracies


def make_config(run: Run, bases: dict[str, Config], out: Path, options: dict) -> Config:
    """The config of a run: that of its file, but only the last epoch is evaluated and none is saved."""
    protocol = PROTOCOLS[run.protocol]
    cfg = copy.deepcopy(bases[getattr(protocol, run.start)])
    cfg.merge_from_dict({**protocol.options, **options})
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(out / run.name), run.name, 'none'
    cfg.randomness.seed = run.seed
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    cfg.default_hooks.checkpoint = None
    return cfg


def evaluate(run: Run, cfg: Config, pretrained: str | None, after_epoch: Callable[[], None]) -> float:
    """Make a run, with its log in a file of its folder; returns top-1 accuracy on the held-out images, in percent."""
    with output_to(Path(cfg.work_dir) / 'log.txt'):
        if run.protocol == 'knn':
            return evaluate_encoder(cfg, pretrained, ks=(20, ))['mean_patch/k20']
        if pretrained:
            launch.start_from(cfg, pretrained)
        runner = launch.build_runner(cfg)
        runner.register_hook(AfterEpoch(after_epoch))
        runner.train()
        return runner.message_hub.get_scalar('val/accuracy/top1').current()


class AfterEpoch(Hook):
    """Call a function after each epoch of training."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def after_train_epoch(self, runner: Runner) -> None:
        """Call it."""
        self.function()


@contextmanager
def output_to(path: Path):
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
        gain = statistics.mean(row['mae']) - statistics.mean(row['random'])
        cells = ' | '.join(mean_and_deviation(row[start]) for start in STARTS)
        lines.append(f'| {PROTOCOLS[protocol].title} | {cells} | {gain:+.1f} |')
    return '\n'.join(lines) + '\n'


def mean_and_deviation(values: Iterable[float]) -> str:
    """'26.1 ± 0.5'; the deviation is left out where there is none to estimate."""
    values = list(values)
    if len(set(values)) == 1:
        return f'{values[0]:.1f}'
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'
