"""Tables of the paper as runs: each row is pre-trained, then probed and fine-tuned; equal pre-trainings are shared."""

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mae_mm.checkpoint.files import write_content
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.models import pca
from mae_mm.transfer.jobs import complete
from mae_mm.transfer.rows import PROTOCOLS, Row, Table, apply_row, find_transfers, read_tables
from mae_mm.transfer.runs import make_run, place, transfer_config
from mae_mm.transfer.tables import Panel, draw_plot, markdown_table, mean_and_deviation
from mae_mm.transfer.types import Job, Metric

TOP1 = {'accuracy/top1': Metric('top-1')}
HELD_OUT = {'recon/loss': Metric('held-out loss'), 'recon/margin': Metric('% below the better baseline', 100.0)}
COSTS = {'finetune': 1.0, 'linear': 0.5}  # of 8 epochs of pre-training, roughly


class Plan(NamedTuple):
    """What is to be done for a row."""

    row: Row
    cfg: Config  # of its pre-training
    transfers: dict[str, str]  # config by protocol
    key: str  # hash of what its pre-training depends on
    scratch_key: str  # of what training from random weights depends on; '' without it
    skipped: str = ''  # why it is left out


class Stage(NamedTuple):
    """One training: pre-training (`protocol` None) or a transfer, of one row and seed."""

    row: str  # 'TABLE/ROW', or 'scratch'
    key: str
    seed: int
    protocol: str | None = None

    @property
    def name(self) -> str:
        return f'{self.row} {self.protocol or "pre-training"} seed{self.seed}'

    def folder(self, out: Path) -> Path:
        return out / 'runs' / f'{self.key[:12]}_seed{self.seed}' / (self.protocol or 'pretrain')


def ablate(
    tables: Sequence[Path], out: Path, base: str | None = None, seeds: int = 2, only: Sequence[str] | None = None,
    options: dict | None = None, transfer_options: dict | None = None, tokenizer: str | None = None, workers: int = 1,
    gpus: int = 0,
) -> dict[str, dict]:
    """Make the runs of tables that are not made yet, then write `out/TABLE/table.md`, `table.csv`, `results.json` and,
    for tables with an axis, `plot.png`; returns what each `results.json` holds, by table.

    Args:
        base: pre-training config that the rows change (default: that of each row).
        only: names of the rows to run, see `read_tables`.
        tokenizer: weights for rows that predict tokens; without them such rows are left out.
        workers, gpus: as of `comparison.compare`.
    """
    changed = {'the pre-training': options or {}, 'the transfers': transfer_options or {}}
    chosen = read_tables(tables, only)
    plans = {name: [make_plan(row, base, *changed.values(), tokenizer, out) for row in table.rows.values()]
             for name, table in chosen.items()}
    ready = [plan for of_table in plans.values() for plan in of_table if not plan.skipped]
    # All configs before the first run: a mistake in one for transfers should not show after a week of pre-training.
    pretrainings, transfers = make_jobs(ready, out, seeds, transfer_options or {}, gpus)
    results, errors = complete(pretrainings, make_run, workers)
    transfers = {stage: job for stage, job in transfers.items() if stage._replace(protocol=None) not in errors}
    made, failed = complete(transfers, make_run, workers)
    results, errors = {**results, **made}, {**errors, **failed}
    return {name: write_table(out / name, table, plans[name], results, errors, seeds, base, changed)
            for name, table in chosen.items()}


def make_plan(
    row: Row, base: str | None, options: dict, transfer_options: dict, tokenizer: str | None, out: Path,
) -> Plan:
    """The configs of a row; looks for its images and fits the principal components that it predicts."""
    cfg, transfers = apply_row(row, base, options), find_transfers(row, base)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    target = cfg.model.get('target') or {}
    needs_tokens = target.get('type') == 'mae_mm.TokenTarget'
    weights = hashlib.sha256(Path(tokenizer).read_bytes()).hexdigest() if tokenizer and needs_tokens else ''
    key = digest(cfg.to_dict(), '' if base else row.transfers, weights)
    if needs_tokens:
        target.weights = tokenizer
    elif target.get('type') == 'mae_mm.PCATarget':
        target.fitted = str(out / 'runs' / f'{key[:12]}_pca.pth')
        try:
            if not Path(target.fitted).exists():
                write_content(pca.fit_to_images(cfg), target.fitted)
        except ValueError as error:
            raise ValueError(f'{row.path}: {error}') from error
    return Plan(row, cfg, transfers, key, digest(transfers, transfer_options) if 'scratch' in transfers else '',
                'it needs --tokenizer FILE' if needs_tokens and not tokenizer else '')


def digest(*parts: object) -> str:
    return hashlib.sha256(''.join(map(str, parts)).encode()).hexdigest()


def make_jobs(
    plans: Sequence[Plan], out: Path, seeds: int, options: dict, gpus: int,
) -> tuple[dict[Stage, Job], dict[Stage, Job]]:
    """The jobs of all pre-trainings, and of all transfers; rows with the same key share those of the first."""
    try:
        cfgs = {path: transfer_config(path, options, save=gpus > 1)
                for plan in plans for path in plan.transfers.values()}
    except ValueError as error:
        raise ValueError(str(error).replace('--cfg-options', '--transfer-options')) from error
    pretrainings, transfers, first = {}, {}, {}
    for plan in plans:
        plan.cfg.train_cfg.val_interval = plan.cfg.train_cfg.max_epochs  # validated at its end
        launch.check_schedule(plan.cfg)
        for path in plan.transfers.values():
            mine, other = (cfg.get('model', {}).get('backbone') or {} for cfg in (plan.cfg, cfgs[path]))
            for key in ('arch', 'patch_size'):
                if mine.get(key) != other.get(key):
                    raise ValueError(
                        f'{plan.row.path} pre-trains an encoder of {key}={mine.get(key)}, {path} has {other.get(key)}; '
                        f'make them equal, e.g. --transfer-options model.backbone.{key}=…')
    for seed in range(seeds):
        for plan in plans:
            stage = Stage(first.setdefault(plan.key, plan.row.path), plan.key, seed)
            pretrainings.setdefault(stage, Job(
                stage.name, place(plan.cfg, stage.folder(out), seed), HELD_OUT, identity=stage.key,
                cost=plan.cfg.train_cfg.max_epochs / 8, gpus=gpus))
            sources = [(stage, plan.transfers, str(stage.folder(out)))]
            if plan.scratch_key:
                source = Stage('scratch', plan.scratch_key, seed)
                sources.append((source, {**plan.transfers, 'finetune': plan.transfers['scratch']}, None))
            for source, paths, pretrained in sources:
                for protocol in (key for key in PROTOCOLS if key in paths):
                    transfer = source._replace(protocol=protocol)
                    transfers[transfer] = Job(
                        transfer.name, place(cfgs[paths[protocol]], transfer.folder(out), seed), TOP1, pretrained,
                        source.key, COSTS[protocol], gpus=gpus)
    return pretrainings, transfers


def write_table(
    folder: Path, table: Table, plans: Sequence[Plan], results: dict[Stage, dict], errors: dict[Stage, str], seeds: int,
    base: str | None, changed: dict[str, dict],
) -> dict:
    """Write a table and its plot; returns what `results.json` holds."""
    values = defaultdict(dict)  # top-1, or the held-out loss of pre-training, of each seed that has a result
    for stage, result in results.items():
        metric = 'accuracy/top1' if stage.protocol else 'recon/loss'
        values[stage.key, stage.protocol][stage.seed] = result['metrics'][metric]
    scratch_key = min((plan.scratch_key for plan in plans if plan.scratch_key), default='')
    keys = {key for plan in plans for key in (plan.key, plan.scratch_key)}
    rows = [dict(
        name=plan.row.name, title=plan.row.title, source=plan.row.source, error=plan.skipped or None,
        paper={key: number for key in PROTOCOLS if (number := getattr(plan.row, key)) is not None}, run=plan.key[:12],
        held_out_loss=values[plan.key, None], **{key: values[plan.key, key] for key in PROTOCOLS}) for plan in plans]
    recipes = {key: path for plan in reversed(plans) for key, path in plan.transfers.items()}
    summary = dict(
        table=table.name, title=table.title, recipes=dict(base=base, **recipes), changed=changed, seeds=seeds,
        scratch={protocol: values[scratch_key, protocol] for protocol in PROTOCOLS},
        failed={stage.name: error for stage, error in errors.items() if stage.key in keys}, rows=rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    paragraphs = describe(summary)
    if table.axis:
        places = {float(row['name']): row for row in rows if row['name'].replace('.', '', 1).isdigit()}
        draw_plot(folder / 'plot.png', [Panel(
            title, {at: list(row[key].values()) for at, row in places.items() if row[key]},
            {at: row['paper'][key] for at, row in places.items() if key in row['paper']},
            list(summary['scratch'][key].values())) for key, title in PROTOCOLS.items()],
            table.axis, 'top-1, %', published_axis=bool(base))
        paragraphs.append('![plot](plot.png)')
    (folder / 'table.md').write_text('\n\n'.join(paragraphs) + '\n')
    with (folder / 'table.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['row', 'column', 'seed', 'this_run', 'paper', 'source'])
        writer.writerows([row['title'], key, seed, f'{value:.4f}', row['paper'].get(key, ''), row['source']]
                         for row in rows for key in (*PROTOCOLS, 'held_out_loss') for seed, value in row[key].items())
    return summary


def describe(summary: dict) -> list[str]:
    """The paragraphs of `table.md`: caption, table, notes."""
    def cells(row: dict) -> list[str]:
        """Mean and deviation, and of how many seeds where some failed."""
        return [mean_and_deviation(list(row[key].values())) + f' (n={len(row[key])})' * (0 < len(row[key]) < seeds)
                for key in PROTOCOLS]

    seeds, rows, recipes = summary['seeds'], summary['rows'], summary['recipes']
    table = [[row['title'], *cells(row), *(f'{row["paper"][key]:.1f}' if key in row['paper'] else '–'
                                           for key in PROTOCOLS), row['source']] for row in rows]
    if any(summary['scratch'].values()):
        table.append(['no pre-training', *cells(summary['scratch']), *'––', ''])
    scale = f'rows applied to {recipes["base"]}' if recipes['base'] else 'the recipes of the rows'
    transfers = ' and '.join(recipes[key] for key in PROTOCOLS if key in recipes)
    spread = f'mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'one seed'
    caption = (f'{summary["title"]}. This run (`ours`): {scale}, then {transfers}; top-1 on held-out images, percent, '
               f'{spread}. `paper`: see the source of each row.')
    for part, options in summary['changed'].items():
        if options:
            caption += f' Changed for {part}: {", ".join(f"`{key}={value}`" for key, value in options.items())}.'
    header = [f'{title}, {side}' for side in ('this run', '`paper`') for title in PROTOCOLS.values()]
    notes = [f'Not run: {row["title"]}: {row["error"]}.' for row in rows if row['error']]
    notes += [f'Failed: {name}: {error}' for name, error in summary['failed'].items()]
    return [caption, markdown_table(['row', *header, 'source'], table), *notes]
