"""Does pre-training help? Equal trainings from a checkpoint and from random weights, over several seeds."""

import json
import statistics
from pathlib import Path

from mae_mm.checkpoint.contents import read_checkpoint
from mae_mm.checkpoint.files import content_hash
from mae_mm.transfer.jobs import complete
from mae_mm.transfer.runs import make_run, place, transfer_config
from mae_mm.transfer.tables import Panel, draw_plot, markdown_table, mean_and_deviation
from mae_mm.transfer.types import STARTS, Job, Run, Suite


def compare(
    suite: Suite, pretrained: str, out: Path, seeds: int | None = None, options: dict | None = None, workers: int = 1,
    gpus: int = 0,
) -> dict:
    """Make the runs that are not made yet, then write `results.json`, `table.md` and `plot.png` (suites with an axis).

    Args:
        seeds: runs of each kind, with seeds 0, 1, … (default: the suite's).
        gpus: train each run on so many GPUs with `tools/dist_train.sh`; 0 and 1 train in one process.

    Returns:
        What `results.json` holds; `results` has a list of {metric: percent} for each protocol and start.
    """
    read_checkpoint(pretrained)  # what cannot be read should not cost a first run
    checkpoint_id = content_hash(pretrained)
    seeds = seeds or suite.seeds
    jobs = make_jobs(suite, pretrained, checkpoint_id, out, seeds, options or {}, gpus)
    results, errors = complete(jobs, make_run, workers)
    images = {key: value for result in results.values() for key, value in result.items() if key.endswith('_images')}
    lengths = {(unit, job.cfg.train_cfg[f'max_{unit}']) for job in jobs.values() for unit in ('epochs', 'iters')
               if job.cfg.train_cfg.get(f'max_{unit}')}
    summary = dict(
        task=suite.task, checkpoint=pretrained, checkpoint_sha256=checkpoint_id, seeds=seeds, **images,
        **dict(lengths if len(lengths) == 1 else ()),  # if all runs share it
        results={name: {start: [result['metrics'] for run, result in results.items() if run[:2] == (name, start)]
                        for start in STARTS} for name in suite.protocols},
        failed={run.name: error for run, error in errors.items()})
    summary.update(caption=caption(suite, summary), rows=rows(suite, summary))
    out.mkdir(parents=True, exist_ok=True)
    (out / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    parts = [summary['caption'], markdown_table(summary['rows'][0], summary['rows'][1:])]
    parts += [f'Failed: {name}: {error}' for name, error in summary['failed'].items()]
    (out / 'table.md').write_text('\n\n'.join([*parts, f'Checkpoint: {pretrained}']) + '\n')
    plot(suite, summary, out / 'plot.png')
    return summary


def make_jobs(
    suite: Suite, pretrained: str, checkpoint_id: str, out: Path, seeds: int, options: dict, gpus: int,
) -> dict[Run, Job]:
    """The jobs of a suite, by seed, so that each protocol has a first result before the repetitions."""
    kinds = {(name, start): transfer_config(config, {**protocol.options, **options}, suite.save)
             for name, protocol in suite.protocols.items() for start in suite.starts
             if (config := getattr(protocol, start))}
    jobs = {}
    for seed in range(seeds):
        for (name, start), cfg in kinds.items():
            run, protocol, is_mae = Run(name, start, seed), suite.protocols[name], start == 'mae'
            jobs[run] = Job(
                run.name, place(cfg, out / run.name, seed), suite.metrics, pretrained if is_mae else None,
                checkpoint_id if is_mae else '', protocol.cost, protocol.measure, is_mae and seed == 0, gpus)
    return jobs


def caption(suite: Suite, summary: dict) -> str:
    """What was compared, in a sentence or two."""
    parts = []
    if 'train_images' in summary:
        parts.append(f'{summary["train_images"]} training and {summary["val_images"]} held-out images')
    parts += [f'{summary[unit]} {unit}' for unit in ('epochs', 'iters') if unit in summary]
    if len(suite.starts) > 1:
        parts.append('the same budget and augmentation on both sides')
    spread = f', mean ± standard deviation over {summary["seeds"]} seeds' if summary['seeds'] > 1 else ''
    return f'{suite.task}: {", ".join(parts)}; percent{spread}. {suite.note}'.replace(': ; ', ': ').strip()


def rows(suite: Suite, summary: dict) -> list[list[str]]:
    """The cells of the table, headings first: mean ± sample standard deviation, and the difference of the means."""
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


def plot(suite: Suite, summary: dict, path: Path) -> None:
    """Draw the first metric over the places of the protocols, if they have some; of several at one place, the best."""
    metric, column = next(iter(suite.metrics.items()))
    points, published = {}, {}
    for name, protocol in suite.protocols.items():
        found = [result[metric] for result in summary['results'][name]['mae']]
        if protocol.at is None or not found:
            continue
        points[protocol.at] = max(points.get(protocol.at, found), found, key=statistics.mean)
        if metric in protocol.published:
            published[protocol.at] = protocol.published[metric]
    if points:
        draw_plot(path, [Panel('', points, published)], suite.axis, f'{column.title}, %')
