"""What is pre-training worth on data of one's own? Equal trainings from every start, over labels and seeds.

Every start gets the same images, the same number of steps, and the same search of the learning rate on a part of the
training labels.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.datasets.labelled import Labelled
from mae_mm.datasets.layouts import Sample
from mae_mm.datasets.split import stable_hash
from mae_mm.engine.runner import load_config
from mae_mm.transfer import verdict
from mae_mm.transfer.jobs import complete
from mae_mm.transfer.rivals import read_pixels, rival_hits
from mae_mm.transfer.runs import last_scalars, make_run, place
from mae_mm.transfer.types import Job, Metric

FRACTIONS = (0.05, 0.25, 1.0)
RATES = (1 / 3, 1.0, 3.0)  # times the recipe's learning rate
SEARCH_SHARE = 0.25  # of the training labels, held out for the search
MIN_ITERS, EPOCHS = 200, 30  # default length: so many epochs of all labels, and not fewer steps
TIMED = 20  # steps of the run that measures a step for `minutes`
BATCH = 32  # of configs/own_data
RANDOM = 'random'


class Length(NamedTuple):
    """How long to train: one of the two, or the default."""

    epochs: float | None = None  # of all training labels
    minutes: float | None = None  # for everything


class OwnRun(NamedTuple):
    """One training."""

    start: str
    labels: int  # number of training images
    seed: int
    rate: float  # times the recipe's learning rate
    purpose: str  # 'search' or 'test'

    @property
    def name(self) -> str:
        rate = f'_lr{self.rate:.2f}' if self.purpose == 'search' else ''
        return f'{self.purpose}_{self.start}_{self.labels}labels_seed{self.seed}{rate}'


def subset(samples: Sequence[Sample], fraction: float, seed: int) -> list[Sample]:
    """A fraction of the labels of each class, at least one image; a larger fraction holds all of a smaller one."""
    classes: dict[int | str, list[Sample]] = defaultdict(list)
    for sample in samples:
        classes[sample.label].append(sample)
    chosen = []
    for members in classes.values():
        members = sorted(members, key=lambda sample: stable_hash(sample.name, seed))
        chosen += members[:max(1, math.ceil(fraction * len(members)))]
    return sorted(chosen)


def name_starts(checkpoints: Sequence[str]) -> dict[str, str | None]:
    """Random weights and every checkpoint under a name of its own: the file's, with its folder where two are equal."""
    stems = [Path(path).stem for path in checkpoints]
    names = [stem if stems.count(stem) == 1 else f'{Path(path).parent.name}_{stem}'
             for path, stem in zip(checkpoints, stems, strict=True)]
    if len(set(names)) < len(names) or RANDOM in names:
        raise ValueError(f'checkpoints need names of their own, got {", ".join(checkpoints)}; rename or link them')
    return {RANDOM: None, **dict(zip(names, checkpoints, strict=True))}


def compare_starts(
    data: Labelled, checkpoints: Sequence[str], out: Path, fractions: Sequence[float] = FRACTIONS, seeds: int = 3,
    length: Length | None = None, workers: int = 1, options: dict | None = None,
) -> dict:
    """Make the runs that are not made yet; returns what `verdict.json` holds.

    Args:
        data: from `find_labelled`; classification.
        checkpoints: pre-trained weights in any format; random weights, of the first one's encoder, are a start, too.
        out: folder for the runs and their data lists.
        fractions: of the training labels, of each class; nested subsets.
        length: the same for every run.
        seeds: how many; each draws its own subsets and its own order of images, the same for all starts.
        workers: runs at a time.
        options: of `--cfg-options`, for every config.

    Raises:
        ValueError: if the data are of another task, or two checkpoints have one name.
    """
    if data.task != 'classification':
        raise ValueError(f'{data.root}: {data.task} is recognised, but only classification can be compared so far')
    starts = name_starts(checkpoints)
    encoders = {name: read_checkpoint(path) for name, path in starts.items() if path}
    encoders[RANDOM] = next(iter(encoders.values()))
    subsets = {(fraction, seed): subset(data.train, fraction, seed)
               for fraction in sorted(set(fractions)) for seed in range(seeds)}
    numbers = {fraction: len(subsets[fraction, 0]) for fraction in sorted(set(fractions))}
    make = _Maker(data, starts, encoders, out, options or {})

    middle = sorted(numbers)[len(numbers) // 2]
    fitting, held_out = _split_for_search(subsets[middle, 0])
    searches = {OwnRun(start, numbers[middle], 0, rate, 'search'): (fitting, held_out)
                for start in starts for rate in RATES}
    tests = {(start, fraction, seed) for start in starts for fraction, seed in subsets}
    iters = _length(length or Length(), len(data.train), len(searches) + len(tests), workers, make, fitting, held_out)
    jobs = {run: make.job(run, *parts, iters) for run, parts in searches.items()}
    found, failed = complete(jobs, make_own_run, workers)
    rates = {start: max(RATES, key=lambda rate: [result['metrics']['accuracy/top1'] for run, result in found.items()
                                                 if (run.start, run.rate) == (start, rate)] or [-1])
             for start in starts}
    jobs = {}
    for start, fraction, seed in sorted(tests, key=lambda one: one[2]):
        run = OwnRun(start, numbers[fraction], seed, rates[start], 'test')
        jobs[run] = make.job(run, subsets[fraction, seed], data.test, iters)
    found, errors = complete(jobs, make_own_run, workers)
    failed |= errors

    hits: dict[str, dict[int, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for run in found:
        hits[run.start][run.labels][run.seed] = np.load(jobs[run].folder / 'per_image.npy')
    rivals = _rivals(data, subsets, numbers)
    results = _complete_seeds({**hits, **rivals}, seeds)
    curves = verdict.make_curves(results)
    pairs = verdict.compare({name: curve for name, curve in curves.items() if name in starts}, 'top-1')
    return dict(
        data=str(data), task=data.task, metric='top-1', iterations=iters, seeds=seeds,
        starts={name: dict(checkpoint=path, description=str(encoders[name]), rate=rates[name])
                for name, path in starts.items()},
        curves={name: dict(labels=curve.labels, values=curve.values.round(2).tolist(),
                           intervals=curve.intervals.round(2).tolist()) for name, curve in curves.items()},
        verdict=[pair.sentence for pair in pairs] + _about_rivals(curves, starts, rivals),
        pairs=[dict(first=pair.first, second=pair.second, difference=pair.difference, low=pair.low, high=pair.high,
                    label_factor=pair.factor and pair.factor._asdict()) for pair in pairs],
        failed={run.name: error for run, error in failed.items()})


class _Maker:
    """Makes the configs of runs, and writes the lists of images that they read."""

    def __init__(self, data: Labelled, starts: dict[str, str | None], encoders: dict[str, Checkpoint], out: Path,
                 options: dict) -> None:
        self.data, self.starts, self.encoders, self.out, self.options = data, starts, encoders, out, options

    def job(self, run: OwnRun, train: Sequence[Sample], test: Sequence[Sample], iters: int) -> Job:
        """The job of one run."""
        cfg = place(self.config(self.encoders[run.start], iters, run.rate), self.out / 'runs' / run.name, run.seed)
        for loader, samples in dict(train=train, val=test).items():
            file = Path(cfg.work_dir).absolute() / f'{loader}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(''.join(f'{one.name} {one.label}\n' for one in samples), errors='surrogateescape')
            cfg[f'{loader}_dataloader'].dataset.update(
                data_root=str(Path(self.data.root).absolute()), ann_file=str(file),
                metainfo=dict(classes=list(self.data.classes)))
        cfg.test_dataloader = cfg.val_dataloader
        names = stable_hash('\n'.join(f'{one.name} {one.label}' for one in (*train, *test)))
        start = self.starts[run.start]
        identity = f'{names} {start and hashlib.sha256(Path(start).read_bytes()).hexdigest()}'
        return Job(run.name, cfg, {'accuracy/top1': Metric('top-1')}, start, identity)

    def config(self, encoder: Checkpoint, iters: int, rate: float) -> Config:
        """The recipe with the encoder's sizes; images have the size that it was pre-trained with."""
        cfg = load_config('configs/own_data/classification.py', self.options)
        _, chans, patch_size, _ = encoder.tensors['patch_embed.proj.weight'].shape
        side = patch_size * max(encoder.grid or (14, 14))
        heads = encoder.settings.get('num_heads') or encoder.embed_dim // 64
        cfg.model.backbone.update(
            arch=dict(embed_dim=encoder.embed_dim, depth=encoder.depth, num_heads=heads), img_size=side,
            patch_size=patch_size, in_chans=chans)
        cfg.model.head.update(num_classes=len(self.data.classes), in_channels=encoder.embed_dim)
        cfg.data_preprocessor.num_classes = len(self.data.classes)
        for loader in ('train_dataloader', 'val_dataloader'):
            cfg[loader].dataset.pipeline[0].size = side
        cfg.optim_wrapper.optimizer.lr *= rate
        warm_up = max(1, iters // 10)
        cfg.train_cfg.update(max_iters=iters, val_interval=iters)
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = warm_up
        return cfg


def make_own_run(job: Job, report: Callable[[float], None]) -> dict:
    """As `make_run`, and `per_image.npy` in the run's folder: (T, 1) 0 or 1 for each test image."""
    return make_run(job, report, (KeepResults(job.folder / 'per_image.npy'),))


class KeepResults(Hook):
    """Keep what the evaluator says of each image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def before_val(self, runner: Runner) -> None:
        metric, = runner.val_loop.evaluator.metrics
        compute = type(metric).compute_metrics

        def keep(results: list[dict]) -> dict:
            right = [float(one['pred_score'].argmax() == one['gt_label']) for one in results]
            np.save(self.path, np.array(right)[:, None])
            return compute(metric, results)

        metric.compute_metrics = keep


def _split_for_search(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Hold out a share of each class for the search; a class of one image is only trained on."""
    by_class: dict[int | str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    fitting, held_out = [], []
    for members in by_class.values():
        count = min(max(1, round(SEARCH_SHARE * len(members))), len(members) - 1)
        members = sorted(members, key=lambda sample: stable_hash(sample.name, 1_000_003))
        held_out += members[:count]
        fitting += members[count:]
    if not held_out:  # one image of each class: nothing can be held out, and every rate is as good
        return list(samples), list(samples)
    return sorted(fitting), sorted(held_out)


def _length(length: Length, images: int, runs: int, workers: int, make: '_Maker', train: Sequence[Sample],
            test: Sequence[Sample]) -> int:
    """Steps of each run."""
    if not length.minutes:
        return max(MIN_ITERS, math.ceil((length.epochs or EPOCHS) * images / BATCH))
    run = OwnRun(next(reversed(make.starts)), len(train), 0, 1.0, 'timing')
    job = make.job(run, train, test[:BATCH], TIMED)
    job.cfg.default_hooks.logger.interval = TIMED // 2
    _, errors = complete({run: job}, make_own_run, 1)
    if errors:
        raise ValueError(f'the run that measures a step failed: {errors[run]}')
    return max(BATCH, round(60 * length.minutes * workers / runs / last_scalars(job.folder)['time']))


def _rivals(data: Labelled, subsets: dict[tuple[float, int], list[Sample]], numbers: dict[float, int]) -> dict:
    """Hits of classifiers of pixels, on the same labels and test images."""
    test, truth = read_pixels(data.root, data.test), np.array([sample.label for sample in data.test])
    pixels = dict(zip((sample.name for sample in data.train), read_pixels(data.root, data.train), strict=True))
    hits: dict[str, dict[int, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for (fraction, seed), samples in subsets.items():
        train = np.stack([pixels[sample.name] for sample in samples])
        labels = np.array([sample.label for sample in samples])
        for name, right in rival_hits(train, labels, test, truth, seed).items():
            hits[name][numbers[fraction]][seed] = right
    return hits


def _complete_seeds(hits: dict[str, dict[int, dict[int, np.ndarray]]], seeds: int) -> dict[str, dict[int, np.ndarray]]:
    """Stack the seeds that all starts have; numbers of labels that some start lacks are left out."""
    common = set.intersection(*({(number, seed) for number, by_seed in start.items() for seed in by_seed}
                                for start in hits.values()))
    whole = [seed for seed in range(seeds) if all((number, seed) in common for number, _ in common)]
    numbers = sorted({number for number, seed in common if seed in whole})
    if not numbers:
        raise ValueError('no number of labels has a result from every start: too many runs failed')
    return {name: {number: np.stack([by_number[number][seed] for seed in whole]) for number in numbers}
            for name, by_number in hits.items()}


def _about_rivals(curves: dict[str, verdict.Curve], starts: dict, rivals: dict) -> list[str]:
    """A sentence where pixels are enough."""
    best = max(starts, key=lambda name: curves[name].values.mean())
    rival = max(rivals, key=lambda name: curves[name].values.mean())
    pair, = verdict.compare({rival: curves[rival], best: curves[best]}, 'top-1')
    if pair.high < 0:
        return []
    values = ', '.join(f'{value:.1f}' for value in curves[rival].values)
    return [f'{rival} is not worse than the best fine-tuned encoder ({values} top-1): this task may need no ViT.']
