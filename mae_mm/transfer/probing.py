"""What do frozen encoders know? The same probes on the features of every checkpoint and of a random encoder."""

import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.registry import init_default_scope
from tqdm import tqdm

from mae_mm.checkpoint.contents import read_checkpoint
from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.labelled import Labelled, find_labelled, split_for_search, subset
from mae_mm.datasets.layouts import Sample, some
from mae_mm.engine.data_check import check_data
from mae_mm.engine.runner import load_config
from mae_mm.evaluation.encoder import load_encoder
from mae_mm.evaluation.features import Features, extract
from mae_mm.evaluation.probes import PROBES, Split, run_probe
from mae_mm.registry import DATASETS
from mae_mm.transfer import verdict
from mae_mm.transfer.per_image import hit_rate
from mae_mm.transfer.tables import environment, markdown_table, mean_and_deviation
from mae_mm.transfer.types import RANDOM, name_starts


def find_classes(path: str, by: str = 'image') -> Labelled:
    """Labelled images for probes: those of `find_labelled`, or the training and validation images of a config."""
    data = _of_config(path) if path.endswith('.py') else find_labelled(path, by)
    if data.task != 'classification':
        raise ValueError(f'--data {path}: {data.layout}, for {data.task}; probes need one class for each image')
    return data


def probe_checkpoints(
    data: Labelled, checkpoints: Sequence[str], cache: Path, probes: Sequence[str] = tuple(PROBES), seeds: int = 3,
    fractions: Sequence[float] = (1.0, ), size: int | None = None, device: str | None = None, batch_size: int = 64,
    workers: int = 0, say: Callable[[str], None] = print,
) -> dict:
    """Top-1 of each probe on the test images, for each checkpoint and for random weights of the first one's encoder.

    Args:
        data: from `find_classes`.
        checkpoints: in any format.
        cache: folder of the features, see `extract`.
        probes: names of `PROBES`.
        fractions: of the training labels, of each class.
        seeds: how many; each has its own search, subset of the labels, and start and batches of attentive probes.
        size: side of the images in pixels (default: that of each checkpoint).

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: if a checkpoint has no encoder, or the images are too few.
    """
    _check_number(data)
    paths = name_starts(checkpoints)
    encoders = {name: read_checkpoint(path) for name, path in paths.items() if path}
    encoders[RANDOM] = next(iter(encoders.values()))
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    names = sorted({sample.name for sample in (*data.train, *data.test)})
    features, minutes = {}, {}
    for start, checkpoint in encoders.items():
        encoder, begun = load_encoder(checkpoint, size, device, 0 if start == RANDOM else None), time.monotonic()
        files = [os.path.join(data.root, name) for name in names]
        features[start] = extract(encoder, files, cache, batch_size, workers, f'features of {start}')
        minutes[start] = (time.monotonic() - begun) / 60
    data = _without_unreadable(data, names, features)
    subsets = {(fraction, seed): subset(data, fraction, seed)
               for fraction in sorted(set(fractions)) for seed in range(seeds)}
    say(f'plan       {len(probes)} probes x {len(encoders)} encoders x {len(set(fractions))} numbers of labels x '
        f'{seeds} seeds')
    rows = {name: row for row, name in enumerate(names)}
    scores, chosen, seconds = (defaultdict(lambda: defaultdict(list)) for _ in range(3))
    accuracy = defaultdict(list)
    jobs = [(probe, start, *key) for probe in probes for start in encoders for key in subsets]
    for probe, start, fraction, seed in (progress := tqdm(jobs, unit='probe', disable=None)):
        progress.set_description(f'{probe} of {start}')
        begun, samples = time.monotonic(), subsets[fraction, seed]
        labels = np.full(len(names), -1)  # no label of a test image
        for sample in samples:
            labels[rows[sample.name]] = sample.label
        split = Split(*(np.array([rows[sample.name] for sample in part])
                        for part in (*split_for_search('classification', samples, seed), samples, data.test)))
        found, setting = run_probe(probe, features[start], labels, split, seed, device)
        hits = found == np.array([sample.label for sample in data.test])
        number = len(subsets[fraction, 0])
        accuracy[probe, start].append(100 * hits.mean())
        scores[probe, start][number].append(hit_rate(hits.astype(np.float64)))
        chosen[probe, start][number].append(setting)
        seconds[probe, start][number].append(time.monotonic() - begun)
        if len(accuracy[probe, start]) == len(subsets):  # all are done; the last ones have the most labels
            progress.write(f'{PROBES[probe].title:<44}{start:<20}'
                           f'{mean_and_deviation(accuracy[probe, start][-seeds:])} % with {number} labels')
    curves = verdict.make_curves(scores, len(data.test))
    results = [
        dict(probe=probe, title=PROBES[probe].title, start=start, labels=number, by_seed=curve.by_seed[i].tolist(),
             mean=float(curve.values[i]), interval=curve.intervals[i].tolist(),
             chosen={PROBES[probe].setting: chosen[probe, start][number]},
             minutes=sum(seconds[probe, start][number]) / 60)
        for (probe, start), curve in curves.items() for i, number in enumerate(curve.labels)]
    differences = [
        f'{PROBES[probe].title}: {pair.sentence}' for probe in probes for starts in combinations(encoders, 2)
        if RANDOM not in starts
        for pair in verdict.compare({start: curves[probe, start] for start in starts}, 'top-1')]
    return dict(
        data=str(data), chance=100 / len(data.classes), seeds=seeds, test_images=len(data.test),
        starts={start: dict(checkpoint=paths[start], description=str(encoders[start]), minutes=minutes[start])
                for start in encoders},
        results=results, differences=differences, environment=environment())


def write_probes(out: Path, summary: dict) -> str:
    """Write `table.md`, `results.json` and `bars.png`; returns the text of `table.md`."""
    out.mkdir(parents=True, exist_ok=True)
    text = make_table(summary)
    write_beside(out / 'results.json', lambda file: file.write_text(json.dumps(summary, indent=2) + '\n'))
    write_beside(out / 'table.md', lambda file: file.write_text(text, encoding='utf-8'))
    write_beside(out / 'bars.png', lambda file: draw(summary).savefig(file, format='png', dpi=130))
    return text


def probe_rows(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a row for each probe and number of labels, a column for each encoder."""
    rows, minutes = defaultdict(list), defaultdict(list)
    for one in summary['results']:
        low, high = one['interval']
        rows[one['title'], one['labels']].append(f'{mean_and_deviation(one["by_seed"])} ({low:.1f}–{high:.1f})')
        minutes[one['title'], one['labels']].append(one['minutes'])
    return ['probe', 'labels', *summary['starts'], 'minutes each'], [
        [title, str(number), *cells, f'{statistics.mean(minutes[title, number]):.2f}']
        for (title, number), cells in rows.items()]


def describe(summary: dict) -> str:
    """What the numbers of the table are."""
    return (f'Top-1 in percent on {summary["test_images"]} test images: mean ± deviation of {summary["seeds"]} seeds '
            f'(95 % interval over images and seeds). Chance is {summary["chance"]:.1f}.')


def make_table(summary: dict) -> str:
    """The text of `table.md`."""
    features = ', '.join(f'{name} {one["minutes"]:.2f}' for name, one in summary['starts'].items())
    text = f'{markdown_table(*probe_rows(summary))}\n\n{describe(summary)} Minutes for the features: {features}.\n'
    return text + ''.join(f'\n- {line}' for line in summary['differences']) + '\n' * bool(summary['differences'])


def draw(summary: dict) -> Figure:
    """Bars of every probe, with all labels."""
    most = max(one['labels'] for one in summary['results'])
    starts, width = list(summary['starts']), 0.8 / len(summary['starts'])
    figure = Figure(figsize=(8, 1 + 0.3 * len(summary['results'])), layout='constrained')
    axes = figure.subplots()
    for i, start in enumerate(starts):
        shown = [one for one in summary['results'] if one['start'] == start and one['labels'] == most]
        values, intervals = np.array([one['mean'] for one in shown]), np.array([one['interval'] for one in shown]).T
        axes.barh(np.arange(len(shown)) + i * width, values, width, xerr=np.abs(intervals - values), label=start,
                  color='0.7' if start == RANDOM else f'C{i}', ecolor='0.3', capsize=2)
        axes.set_yticks(np.arange(len(shown)) + 0.4 - width / 2, [one['title'] for one in shown])
    axes.axvline(summary['chance'], color='0.3', linestyle=':', label='chance')
    axes.invert_yaxis()
    axes.set_xlabel(f'top-1 on test images, %, {most} labels')
    axes.legend()
    return figure


def _of_config(path: str) -> Labelled:
    """The training and validation images of a classification config; nothing else of it is used."""
    cfg = load_config(path)
    if 'num_classes' not in (cfg.model.get('head') or {}):
        raise ValueError(f'--data {path} is not a classification config: it has no model.head.num_classes')
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    sides = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build({**loader.dataset, 'pipeline': []})
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        sides.append([Sample(os.path.abspath(info['img_path']), int(info['gt_label'])) for info in infos])
    classes = dataset.metainfo.get('classes') or range(cfg.model.head.num_classes)
    root = os.path.commonpath([os.path.dirname(sample.name) for side in sides for sample in side])
    train, test = ([sample._replace(name=os.path.relpath(sample.name, root)) for sample in side] for side in sides)
    return Labelled(
        'classification', f'config {path}', root, tuple(map(str, classes)), train, test, 'as the config has it')


def _check_number(data: Labelled) -> None:
    """Two training images of a class, one of them to choose a setting on, are the least."""
    present = {sample.label for sample in data.train}
    if len(present) < 2:
        raise ValueError(f'--data: {len(present)} class among the training labels; probes tell two or more apart')
    if len(data.train) < 2 * len(present):
        raise ValueError(f'--data: {len(data.train)} training images of {len(present)} classes; give two or more of '
                         'each class, of which one is held out to choose settings')
    if not data.test:
        raise ValueError('--data: no test images')


def _without_unreadable(data: Labelled, names: Sequence[str], features: dict[str, Features]) -> Labelled:
    """Leave out images that could not be read."""
    bad = {names[row]: reason for one in features.values() for row, reason in one.unreadable.items()}
    if not bad:
        return data
    print(f'warning: {len(bad)} images cannot be read and are left out: {some(bad)}: {next(iter(bad.values()))}',
          file=sys.stderr)
    data = data._replace(train=[one for one in data.train if one.name not in bad],
                         test=[one for one in data.test if one.name not in bad])
    _check_number(data)
    return data
