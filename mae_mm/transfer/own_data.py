"""What is pre-training worth on data of one's own? Equal trainings from every start, over labels and seeds.

Every start gets the same images, the same number of steps, and the same search of the learning rate on a part of the
training labels.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.checkpoint.files import content_hash
from mae_mm.datasets.labelled import Labelled, split_for_search, subset
from mae_mm.datasets.layouts import Sample
from mae_mm.datasets.split import stable_hash
from mae_mm.transfer import verdict
from mae_mm.transfer.jobs import complete
from mae_mm.transfer.own_recipes import TASKS, own_config, use_images
from mae_mm.transfer.per_image import KeepContributions, Score, hit_rate, load_score
from mae_mm.transfer.rivals import read_pixels, rival_hits
from mae_mm.transfer.runs import make_run, place
from mae_mm.transfer.types import RANDOM, Job, name_starts

FRACTIONS = (0.05, 0.25, 1.0)
RATES = (1 / 3, 1.0, 3.0)  # times the recipe's learning rate
TIMED = 20  # steps of the run that measures a step for `minutes`
SHORTEST = 32  # steps, however few the minutes
ONE_SEED = 'One seed: the intervals do not hold the chance of training (--seeds 3).'
DETECTION_REPLICATES = 300  # AP is costly


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


def compare_starts(
    data: Labelled, checkpoints: Sequence[str], out: Path, fractions: Sequence[float] = FRACTIONS, seeds: int = 3,
    length: Length | None = None, workers: int = 1, size: int | None = None, options: dict | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Make the runs that are not made yet; returns what `verdict.json` holds.

    Args:
        data: from `find_labelled`.
        checkpoints: pre-trained weights in any format; random weights, of the first one's encoder, are a start, too.
        out: folder for the runs and their data lists.
        fractions: of the training labels, of each class; nested subsets.
        seeds: how many; each draws its own subsets and its own order of images, the same for all starts.
        length: the same for every run.
        workers: runs at a time.
        size: side of the images in pixels; see `own_config`.
        options: of `--cfg-options`, for every config.
        say: called with a line before each part.

    Raises:
        ValueError: if two checkpoints have one name, or no number of labels has results of all starts.
    """
    starts = name_starts(checkpoints)
    encoders = {name: read_checkpoint(path) for name, path in starts.items() if path}
    encoders[RANDOM] = next(iter(encoders.values()))
    task, fractions = TASKS[data.task], sorted(set(fractions))
    subsets = {(fraction, seed): subset(data, fraction, seed) for fraction in fractions for seed in range(seeds)}
    numbers = {fraction: len(subsets[fraction, 0]) for fraction in fractions}
    make = _Maker(data, starts, encoders, out, size, options)

    middle = fractions[len(fractions) // 2]
    parts = split_for_search(data.task, subsets[middle, 0])
    searches = [OwnRun(start, numbers[middle], 0, rate, 'search') for start in starts for rate in RATES]
    count = len(searches) + len(starts) * len(subsets)
    iters, minutes = _length(length or Length(), len(data.train), count, workers, make, parts)
    say(f'plan       {count} runs of {iters} steps, {workers} at a time: {len(searches)} to choose learning rates, '
        f'then {len(starts)} starts x {len(fractions)} numbers of labels x {seeds} seeds')
    if minutes and iters == SHORTEST:
        say(f'length     {SHORTEST} steps are the least for a run: this takes about {minutes:.0f} minutes, not '
            f'{length.minutes:g}; fewer --fractions or --seeds are shorter')
    jobs = {run: make.job(run, *parts, iters) for run in searches}
    found, failed = complete(jobs, make_own_run, workers)
    rates = {start: max(RATES, key=lambda rate: max((
        result['metrics'][task.key] for run, result in found.items() if (run.start, run.rate) == (start, rate)),
        default=-1)) for start in starts}
    say('rates      ' + ', '.join(f'{start}: x {rate:.2f}' for start, rate in rates.items()))
    jobs = {}
    for seed in range(seeds):
        for start in starts:
            for fraction in fractions:
                run = OwnRun(start, numbers[fraction], seed, rates[start], 'test')
                draw = seed == 0 and fraction == fractions[-1]
                jobs[run] = make.job(run, subsets[fraction, seed], data.test, iters)._replace(draw=draw)
    found, errors = complete(jobs, make_own_run, workers)
    failed |= errors

    scores: dict[str, dict[int, dict[int, Score]]] = {start: defaultdict(dict) for start in starts}
    for run in found:
        scores[run.start][run.labels][run.seed] = load_score(jobs[run].folder / 'per_image.npz')
    reading = next((one.settings['reading'] for one in encoders.values() if 'reading' in one.settings), None)
    rivals = _rivals(data, subsets, numbers, out / 'rivals', reading) if data.task == 'classification' else {}
    replicates = DETECTION_REPLICATES if data.task == 'detection' else verdict.REPLICATES
    curves = verdict.make_curves(
        _complete_seeds({**scores, **rivals}, seeds, failed), len(data.test), replicates=replicates)
    pairs = verdict.compare({name: curve for name, curve in curves.items() if name in starts}, task.metric.title)
    return dict(
        data=str(data), root=data.root, task=data.task, metric=task.metric.title, iterations=iters, seeds=seeds,
        test_images=len(data.test), search_labels=numbers[middle],
        batch=next(iter(jobs.values())).cfg.train_dataloader.batch_size,
        starts={name: dict(checkpoint=path, description=str(encoders[name]), rate=rates[name])
                for name, path in starts.items()},
        curves={name: dict(labels=curve.labels, values=curve.values.round(2).tolist(),
                           intervals=curve.intervals.round(2).tolist()) for name, curve in curves.items()},
        verdict=[pair.sentence for pair in pairs] + _about_sizes(encoders) + _about_rivals(curves, starts, rivals)
        + [ONE_SEED] * (seeds == 1),
        pairs=[dict(first=pair.first, second=pair.second, difference=pair.difference, low=pair.low, high=pair.high,
                    label_factor=pair.factor and pair.factor._asdict()) for pair in pairs],
        pictures={run.start: [str(path) for path in sorted((job.folder / 'pictures').glob('*.png'))]
                  for run, job in jobs.items() if job.draw},
        failed={run.name: error for run, error in failed.items()})


class _Maker:
    """Makes the jobs of runs, and writes the lists of images that they read."""

    def __init__(self, data: Labelled, starts: dict[str, str | None], encoders: dict[str, Checkpoint], out: Path,
                 size: int | None, options: dict | None) -> None:
        self.data, self.encoders, self.out, self.size, self.options = data, encoders, out, size, options
        self.starts = starts
        self.hashes = {path: content_hash(path) for path in starts.values() if path}

    def job(self, run: OwnRun, train: Sequence[Sample], test: Sequence[Sample], iters: int) -> Job:
        """The job of one run."""
        cfg = own_config(self.data, self.encoders[run.start], iters, run.rate, self.size, self.options)
        cfg = place(cfg, self.out / 'runs' / run.name, run.seed)
        use_images(cfg, self.data, train, test)
        names = stable_hash('\n'.join(f'{one.name} {one.label}' for one in (*train, *test)))
        task, start = TASKS[self.data.task], self.starts[run.start]
        return Job(run.name, cfg, {task.key: task.metric}, start, f'{self.data.task} {names} {self.hashes.get(start)}')


def make_own_run(job: Job, report: Callable[[float], None]) -> dict:
    """As `make_run`, and `per_image.npz` in the run's folder: what each test image contributes to the metric."""
    task = job.identity.partition(' ')[0]
    return make_run(job, report, (KeepContributions(task, job.folder / 'per_image.npz'),))


def _length(length: Length, images: int, runs: int, workers: int, make: _Maker, parts: tuple) -> tuple[int, float]:
    """Steps of each run, and the minutes that all of them take (0: not measured)."""
    task, start = TASKS[make.data.task], next(reversed(make.starts))
    if not length.minutes:
        batch = own_config(make.data, make.encoders[start], 1, 1.0, make.size, make.options).train_dataloader.batch_size
        return max(math.ceil((length.epochs or task.epochs) * images / batch),
                   SHORTEST if length.epochs else task.min_iters), 0.0
    timings = [OwnRun(start, len(parts[0]), seed, 1.0, 'timing') for seed in range(workers)]  # share the machine, too
    jobs = {run: make.job(run, parts[0], make.data.test, TIMED) for run in timings}
    for job in jobs.values():
        job.cfg.default_hooks.logger.interval = TIMED // 2
    found, errors = complete(jobs, make_own_run, workers)
    for run, error in errors.items():
        raise ValueError(f'the run that measures a step failed: {error}; see {jobs[run].folder / "log.txt"}')
    step = np.mean([_step_seconds(job.folder) for job in jobs.values()])
    rest = np.mean([result['seconds'] for result in found.values()]) - TIMED * step  # start and evaluation
    iters = max(SHORTEST, round((60 * length.minutes * workers / runs - rest) / step))
    return iters, (iters * step + rest) * runs / workers / 60


def _step_seconds(folder: Path) -> float:
    """Of the last training steps that a run logged; validation logs a `time` of its own."""
    lines = [json.loads(line) for file in sorted(folder.glob('*/vis_data/scalars.json'))
             for line in file.read_text().splitlines()]
    return [line['time'] for line in lines if 'loss' in line][-1]


def _rivals(
    data: Labelled, subsets: dict[tuple[float, int], list[Sample]], numbers: dict[float, int], folder: Path,
    reading: dict | None,
) -> dict[str, dict[int, dict[int, Score]]]:
    """Classifiers of pixels, on the same labels and test images; what is complete is kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[int, dict[int, Score]]] = defaultdict(lambda: defaultdict(dict))
    pixels = {}
    for (fraction, seed), samples in tqdm(subsets.items(), desc='classifiers of pixels', unit='subset', disable=None):
        key = stable_hash('\n'.join(f'{one.name} {one.label}' for one in (*samples, *data.test)))
        file = folder / f'{numbers[fraction]}labels_seed{seed}_{key:016x}.npz'
        if not file.exists():
            pixels = pixels or {sample.name: row for part in (data.train, data.test)
                                for sample, row in zip(part, read_pixels(data.root, part, reading), strict=True)}
            sides = [(np.stack([pixels[sample.name] for sample in part]), np.array([sample.label for sample in part]))
                     for part in (samples, data.test)]
            np.savez(file, **rival_hits(*sides[0], *sides[1], seed))
        with np.load(file) as content:
            for name, hits in content.items():
                scores[name][numbers[fraction]][seed] = hit_rate(hits)
    return scores


def _complete_seeds(
    scores: dict[str, dict[int, dict[int, Score]]], seeds: int, failed: dict[OwnRun, str],
) -> dict[str, dict[int, list[Score]]]:
    """The seeds that all starts have; numbers of labels that some start lacks are left out."""
    common = set.intersection(*({(number, seed) for number, by_seed in start.items() for seed in by_seed}
                                for start in scores.values()))
    whole = [seed for seed in range(seeds) if all((number, seed) in common for number, _ in common)]
    numbers = sorted({number for number, seed in common if seed in whole})
    if not numbers:
        run, error = next(iter(failed.items()))
        raise ValueError(f'no number of labels has a result from every start: {len(failed)} runs failed, the first, '
                         f'{run.name}, with {error}; see log.txt in its folder')
    return {name: {number: [by_number[number][seed] for seed in whole] for number in numbers}
            for name, by_number in scores.items()}


def _about_sizes(encoders: dict[str, Checkpoint]) -> list[str]:
    """A sentence where encoders are of different sizes, so that a difference is not of pre-training alone."""
    sizes = {name: f'{encoder.embed_dim} wide, {encoder.depth} deep, {encoder.patch_size}-px patches'
             for name, encoder in encoders.items() if name != RANDOM}
    if len(set(sizes.values())) == 1:
        return []
    listed = '; '.join(f'{name}: {size}' for name, size in sizes.items())
    return [f'The encoders differ in size ({listed}). Random weights are of the first one, so that the others differ '
            'from them in size, too.']


def _about_rivals(curves: dict[str, verdict.Curve], starts: dict, rivals: dict) -> list[str]:
    """A sentence where pixels are enough."""
    if not rivals:
        return []
    best = max(starts, key=lambda name: curves[name].values.mean())
    rival = max(rivals, key=lambda name: curves[name].values.mean())
    pair, = verdict.compare({rival: curves[rival], best: curves[best]}, 'top-1')
    if pair.high < 0:
        return []
    values = ', '.join(f'{value:.1f}' for value in curves[rival].values)
    return [f'{rival} is not worse than the best fine-tuned encoder ({values} top-1): at this length of training, '
            'no ViT is needed.']
