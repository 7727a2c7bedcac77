"""Tables of the paper as runs: each row is pre-trained, then probed and fine-tuned, over several seeds.

Rows whose pre-training is the same share it, between tables, too: runs are in folders named by a hash of what they do.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass
class Plan:
    """What is to be done for a row."""

    row: Row
    cfg: Config  # of its pre-training
    transfers: dict[str, str]
    key: str  # hash of what its pre-training depends on
    skipped: str = ''  # why it is left out
    error: str = ''  # why it cannot be run


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
    tables: Sequence[Path], out: Path, base: str | None = None, given: dict[str, str] | None = None, seeds: int = 2,
    only: Sequence[str] | None = None, options: dict | None = None, transfer_options: dict | None = None,
    tokenizer: str | None = None, workers: int = 1, gpus: int = 0,
) -> dict[str, dict]:
    """Make the runs of tables that are not made yet, then write `out/TABLE/table.md`, `table.csv`, `results.json` and,
    for tables with an axis, `plot.png`.

    Complete runs are not repeated, others resume from their newest checkpoint; one that fails does not stop the others.

    Args:
        base: pre-training config that the rows change (default: that of each row).
        given: configs of transfers, `finetune` and `linear`, instead of those that the base names.
        only: names of the rows to run, see `read_tables`.
        options, transfer_options: of `--cfg-options`, for pre-training and for the transfers.
        tokenizer: weights for rows that predict tokens; without them such rows are left out.
        workers, gpus: as of `comparison.compare`.

    Returns:
        Table -> what its `results.json` holds.

    Raises:
        ValueError: if there is no row to run, or a config or an option is not valid.
        FileNotFoundError: if there are no data, for pre-training or for transfers.
    """
    if seeds < 1:
        raise ValueError(f'seeds={seeds}: must be 1 or more')
    if tokenizer:
        launch.check_file(tokenizer, '--tokenizer')
    options, transfer_options = options or {}, transfer_options or {}
    chosen = read_tables(tables, only)
    plans = {name: [make_plan(row, base, given or {}, options, tokenizer, out) for row in table.rows.values()]
             for name, table in chosen.items()}
    every = [plan for of_table in plans.values() for plan in of_table]
    ready = [plan for plan in every if not plan.skipped and not plan.error]
    if not ready:
        raise ValueError('no row to run: ' + '; '.join(
            f'{plan.row.path}: {plan.skipped or plan.error}' for plan in every))
    # All configs before the first run: a mistake in one for transfers should not show after a week of pre-training.
    pretrainings, transfers = make_jobs(ready, out, seeds, transfer_options, gpus)
    results, errors = complete(pretrainings, make_run, workers)
    transfers = {stage: job for stage, job in transfers.items() if stage._replace(protocol=None) not in errors}
    made, failed = complete(transfers, make_run, workers)
    results, errors = {**results, **made}, {**errors, **failed}
    changed = {'the pre-training': options, 'the transfers': transfer_options}
    return {name: write_table(out / name, table, plans[name], results, errors, seeds, base, changed)
            for name, table in chosen.items()}


def make_plan(
    row: Row, base: str | None, given: dict[str, str], options: dict, tokenizer: str | None, out: Path,
) -> Plan:
    """The configs of a row; looks for its images and fits the principal components that it predicts."""
    cfg = apply_row(row, base, options)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    target = cfg.model.get('target') or {}
    needs_tokens = target.get('type') == 'mae_mm.TokenTarget'
    key = hashlib.sha256(f'{cfg.to_dict()}{"" if base else row.transfers}'.encode())
    if tokenizer and needs_tokens:
        key.update(Path(tokenizer).read_bytes())
    plan = Plan(row, cfg, find_transfers(row, base, given), key.hexdigest())
    if needs_tokens:
        target.weights, plan.skipped = tokenizer, '' if tokenizer else 'it needs --tokenizer FILE'
    elif target.get('type') == 'mae_mm.PCATarget':
        target.fitted = str(out / 'runs' / f'{plan.key[:12]}_pca.pth')
        try:
            if not Path(target.fitted).exists():
                write_content(pca.fit_to_images(cfg), target.fitted)
        except (ValueError, OSError) as error:  # too few images for so many components, for example
            plan.error = str(error)
    return plan


def make_jobs(
    plans: Sequence[Plan], out: Path, seeds: int, options: dict, gpus: int,
) -> tuple[dict[Stage, Job], dict[Stage, Job]]:
    """The jobs of all pre-trainings, and of all transfers; rows with the same key share those of the first.

    Raises:
        ValueError: for a schedule that does not fit, or an encoder that a transfer does not have.
    """
    try:
        cfgs = {path: transfer_config(path, options, save=gpus > 1)
                for plan in plans for path in plan.transfers.values()}
    except ValueError as error:
        raise ValueError(str(error).replace('--cfg-options', '--transfer-options')) from error
    for plan in plans:
        for protocol in plan.transfers.keys() - {'scratch'}:
            check_encoder(plan, plan.transfers[protocol], cfgs[plan.transfers[protocol]])
    pretrainings, transfers, first = {}, {}, {}
    for seed in range(seeds):
        for plan in plans:
            stage = Stage(first.setdefault(plan.key, plan.row.path), plan.key, seed)
            pretrainings.setdefault(stage, pretraining(stage, plan.cfg, out, gpus))
            sources = [(stage, plan.transfers, str(stage.folder(out)))]
            if 'scratch' in plan.transfers:
                source = Stage('scratch', scratch_key(plan, options), seed)
                sources.append((source, {**plan.transfers, 'finetune': plan.transfers['scratch']}, None))
            for source, paths, pretrained in sources:
                for protocol in (key for key in PROTOCOLS if key in paths):
                    transfer = source._replace(protocol=protocol)
                    transfers[transfer] = Job(
                        transfer.name, place(cfgs[paths[protocol]], transfer.folder(out), seed), TOP1, pretrained,
                        source.key, COSTS[protocol], gpus=gpus)
    return pretrainings, transfers


def pretraining(stage: Stage, cfg: Config, out: Path, gpus: int) -> Job:
    """The job of a pre-training, which is validated at its end."""
    cfg = place(cfg, stage.folder(out), stage.seed)
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    launch.check_schedule(cfg)
    return Job(stage.name, cfg, HELD_OUT, identity=stage.key, cost=cfg.train_cfg.max_epochs / 8, gpus=gpus)


def scratch_key(plan: Plan, options: dict) -> str:
    return hashlib.sha256(f'{plan.transfers}{options}'.encode()).hexdigest()


def check_encoder(plan: Plan, path: str, transfer: Config) -> None:
    """Refuse a transfer of another encoder than the row pre-trains, before the pre-training is done."""
    mine, other = (cfg.get('model', {}).get('backbone') or {} for cfg in (plan.cfg, transfer))
    for key in ('arch', 'patch_size'):
        if mine.get(key) != other.get(key):
            raise ValueError(
                f'{plan.row.path} pre-trains an encoder of {key}={mine.get(key)}, {path} has {other.get(key)}; make '
                f'them equal, e.g. --transfer-options model.backbone.{key}=…')


def write_table(
    folder: Path, table: Table, plans: Sequence[Plan], results: dict[Stage, dict], errors: dict[Stage, str], seeds: int,
    base: str | None, changed: dict[str, dict],
) -> dict:
    """Write a table and its plot; returns what `results.json` holds."""
    def values(key: str, protocol: str | None) -> dict[int, float]:
        """One number for each seed that has a result: top-1, or the held-out loss of pre-training."""
        metric = 'accuracy/top1' if protocol else 'recon/loss'
        return {stage.seed: result['metrics'][metric] for stage, result in results.items()
                if (stage.key, stage.protocol) == (key, protocol)}

    scratch_keys = {scratch_key(plan, changed['the transfers']) for plan in plans if 'scratch' in plan.transfers}
    keys = scratch_keys | {plan.key for plan in plans}
    failed = {plan.row.path: plan.error for plan in plans if plan.error}
    failed |= {stage.name: error for stage, error in errors.items() if stage.key in keys}
    scratch = {protocol: values(min(scratch_keys, default=''), protocol) for protocol in PROTOCOLS}
    rows = [dict(
        name=plan.row.name, title=plan.row.title, source=plan.row.source, error=plan.skipped or None,
        paper={key: number for key in PROTOCOLS if (number := getattr(plan.row, key)) is not None}, run=plan.key[:12],
        held_out_loss=values(plan.key, None), **{key: values(plan.key, key) for key in PROTOCOLS}) for plan in plans]
    recipes = {key: path for plan in reversed(plans) for key, path in plan.transfers.items()}
    summary = dict(table=table.name, title=table.title, recipes=dict(base=base, **recipes), changed=changed,
                   seeds=seeds, scratch=scratch, failed=failed, rows=rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    has_plot = draw_table(folder / 'plot.png', table, summary)
    (folder / 'table.md').write_text('\n\n'.join(describe(summary) + ['![plot](plot.png)'] * has_plot) + '\n')
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
    header = ['row', *(f'{title}, {side}' for side in ('this run', '`paper`') for title in PROTOCOLS.values()),
              'source']
    notes = [f'Not run: {row["title"]}: {row["error"]}.' for row in rows if row['error']]
    return [caption, markdown_table(header, table), *notes,
            *(f'Failed: {name}: {error}' for name, error in summary['failed'].items())]


def draw_table(path: Path, table: Table, summary: dict) -> bool:
    """Draw accuracy over the numbers that the names of the rows are, a panel for each protocol; False without any.

    Rows of other names have no place in it.
    """
    rows = {float(row['name']): row for row in summary['rows'] if row['name'].replace('.', '', 1).isdigit()}
    panels = [Panel(
        title, {at: list(row[key].values()) for at, row in rows.items() if row[key]},
        {at: row['paper'][key] for at, row in rows.items() if key in row['paper']},
        list(summary['scratch'][key].values())) for key, title in PROTOCOLS.items()]
    if not table.axis or not any(panel.points for panel in panels):
        return False
    draw_plot(path, panels, table.axis, 'top-1, %', published_axis=bool(summary['recipes']['base']))
    return True
