"""One table of the paper as runs: each row is pre-trained, then probed and fine-tuned, over several seeds.

A row is a config file that holds only what it changes (configs/ablation/TABLE/ROW.py), so it can be applied to another
base. Two rows whose pre-training is the same share it, also between tables: runs lie under a hash of what they do.
"""

import ast
import copy
import csv
import hashlib
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from mmengine.config import Config

from mae_mm.benchmark.timing import markdown_table
from mae_mm.checkpoint.files import write_content
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.models import pca
from mae_mm.transfer import comparison
from mae_mm.transfer.comparison import Suite, mean_and_deviation
from mae_mm.transfer.runs import Job, Metric, Protocol

PARENT = 'configs/ablation/vit_l16.py'  # of all rows
PAPER_EPOCHS = 800  # of the parent
TOP1 = {'accuracy/top1': Metric('top-1')}
HELD_OUT = {'recon/loss': Metric('held-out loss'), 'recon/margin': Metric('% below the better baseline', 100.0)}
COLUMNS = {'finetune': 'fine-tuning', 'linear': 'linear probing'}
AXES = {'mask_ratio': 'masking ratio, %', 'schedule': 'epochs (of the paper)'}  # tables with a plot


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table."""

    table: str
    name: str
    title: str
    source: str  # table or figure of the paper
    paper: dict[str, float]  # of COLUMNS, percent
    file: Path


class Recipes(NamedTuple):
    """The configs at whose scale a table is run."""

    base: str | None  # pre-training; None: as the rows have it
    finetune: str
    linear: str
    scratch: str | None = None  # fine-tuning's other side; with it a random encoder is probed, too


def find_recipes(base: str | None = None, finetune: str | None = None, linear: str | None = None) -> Recipes:
    """The recipes of a base: its `transfers = dict(finetune=…, linear=…, scratch=…)`, unless others are given.

    Raises:
        FileNotFoundError: if a config is not there.
        ValueError: if the base does not say how its encoder is transferred, and neither does the caller.
    """
    transfers = launch.load_config(base or PARENT).get('transfers') or {}
    if not isinstance(transfers, dict) or set(transfers) - set(Recipes._fields[1:]):
        raise ValueError(f"{base}: transfers={transfers!r}; want dict(finetune='…', linear='…', scratch='…')")
    given = {key: path for key, path in dict(finetune=finetune, linear=linear).items() if path}
    if 'finetune' in given:  # which has another side of its own
        transfers.pop('scratch', None)
    recipes = dict(transfers, **given)
    for key, path in recipes.items():
        if not Path(path).is_file():
            flag = f'--{key}' if key in given else f'transfers.{key} of {base or PARENT}'
            raise FileNotFoundError(f'{flag}: no config file {path}')
    if missing := {'finetune', 'linear'} - set(recipes):
        flags = ' and '.join(f'--{key} CONFIG' for key in sorted(missing))
        raise ValueError(
            f'{base} does not say how its encoder is transferred; give {flags}, or write '
            "transfers = dict(finetune='…', linear='…') into it, as configs/demo/ablation.py has it")
    return Recipes(base, **recipes)


class Stage(NamedTuple):
    """One training: pre-training (`protocol` None) or a transfer, of one row and seed."""

    row: str  # 'TABLE/ROW'
    key: str  # hash of the pre-training
    seed: int
    protocol: str | None = None

    @property
    def name(self) -> str:
        return f'{self.row} {self.protocol or "pre-training"} seed{self.seed}'

    def folder(self, out: Path) -> Path:
        """Where it lies."""
        return out / 'runs' / f'{self.key[:12]}_seed{self.seed}' / (self.protocol or 'pretrain')


def read_rows(folders: Sequence[Path], only: Sequence[str] | None = None) -> dict[str, list[Row]]:
    """The rows of tables, in the order of their file names; titles and the paper's numbers are in their headers.

    Args:
        only: names of rows, as ROW or TABLE/ROW; a table of which none is named is left out.

    Raises:
        ValueError: if there are no such rows, or a header cannot be read.
    """
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError(f'two tables have the same name ({", ".join(map(str, folders))}); run them one by one')
    files = {folder: sorted(folder.glob('*.py')) for folder in folders}
    for folder, paths in files.items():
        if folder.suffix == '.py':
            raise ValueError(f'{folder} is a row; give its table, and it by name: {folder.parent} --rows {folder.stem}')
        if not paths:
            tables = sorted(path.name for path in Path('configs/ablation').glob('*/'))
            raise ValueError(f'{folder} has no rows; there are {", ".join(tables)} in configs/ablation')
    names = {path: (path.stem, f'{folder.name}/{path.stem}') for folder, paths in files.items() for path in paths}
    if unknown := set(only or ()) - {name for both in names.values() for name in both}:
        raise ValueError(
            f'there is no row {", ".join(sorted(unknown))}; there are {", ".join(name for _, name in names.values())}')
    rows = {folder.name: [read_row(path) for path in paths if not only or set(names[path]) & set(only)]
            for folder, paths in files.items()}
    return {table: chosen for table, chosen in rows.items() if chosen}


def read_row(path: Path) -> Row:
    """A row from the first sentence of its config, "TITLE: X fine-tuning, Y linear probing (SOURCE, `paper`).".

    Without the tag `paper` what stands before the source is a remark: its numbers are not the paper's.

    Raises:
        ValueError: if the header has another form.
    """
    header = re.match(r'"""(.+?): (.*)\(([^,)]+(?:, "[^"]*")?)(, `paper`)?\)\.', path.read_text())
    if header is None:
        raise ValueError(
            f'{path} does not begin with """TITLE: X fine-tuning, Y linear probing (SOURCE, `paper`).  or, a row of '
            'your own, with  """TITLE: REMARK (`ours`).')
    numbers = {key: header[4] and re.search(rf'([\d.]+) {title}', header[2]) for key, title in COLUMNS.items()}
    return Row(path.parent.name, path.stem, header[1], header[3],
               {key: float(number[1]) for key, number in numbers.items() if number}, path)


def apply_row(row: Row, base: str | None, out: Path, options: dict) -> Config:
    """The pre-training config of a row, on another base if one is given; the file is kept in `out/configs`.

    Epochs of a row are relative to the paper's 800, so that 800 stand for those of the base.

    Raises:
        ValueError: if the row has not exactly one base, or is no Python.
    """
    if base is None:
        cfg = launch.load_config(str(row.file), options)
        cfg.pop('transfers', None)
        return cfg
    text = row.file.read_text()
    start, end = find_base(row, text)
    lines = text.splitlines(keepends=True)
    path = out / 'configs' / row.table / f'{row.name}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join([*lines[:start], f'_base_ = {str(Path(base).resolve())!r}\n', *lines[end:]]))
    cfg = launch.load_config(str(path), options)
    cfg.pop('transfers', None)
    names = {getattr(node, 'arg', None) or getattr(node, 'value', None) for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.keyword | ast.Constant)}
    if 'max_epochs' in names and 'train_cfg.max_epochs' not in options:
        cfg.train_cfg.max_epochs = max(
            1, round(cfg.train_cfg.max_epochs / PAPER_EPOCHS * launch.load_config(base).train_cfg.max_epochs))
    return cfg


def find_base(row: Row, text: str) -> tuple[int, int]:
    """The lines of a row's `_base_ = …`, first and behind the last.

    Raises:
        ValueError: if it has not exactly one base, or that is a row, whose changes another base would lose.
    """
    try:
        found = [node for node in ast.parse(text).body if isinstance(node, ast.Assign) and
                 [getattr(target, 'id', None) for target in node.targets] == ['_base_']]
        values = ast.literal_eval(found[0].value) if len(found) == 1 else []
    except (SyntaxError, ValueError) as error:
        raise ValueError(f'{row.file} cannot be read as a row: {type(error).__name__}: {error}') from error
    values = [values] if isinstance(values, str) else values
    if len(values) != 1:
        raise ValueError(f'{row.file}: a row has exactly one `_base_ = …` of one file, for which --base '
                         f'puts another; this has {len(values)}')
    if (row.file.parent / values[0]).resolve().parent.parent == row.file.resolve().parent.parent:
        raise ValueError(
            f'{row.file}: its base {values[0]} is a row, whose changes another base would lose; write them into it')
    return found[0].lineno - 1, found[0].end_lineno


def ablate(
    tables: Sequence[Path], recipes: Recipes, out: Path, seeds: int = 2, only: Sequence[str] | None = None,
    options: dict | None = None, transfer_options: dict | None = None, tokenizer: str | None = None, workers: int = 1,
    gpus: int = 0,
) -> dict[str, dict]:
    """Make the runs of tables that are not made yet, then write `out/TABLE/table.md`, `table.csv`, `results.json` and,
    for tables of `AXES`, `plot.png`.

    A run that was interrupted resumes from its newest checkpoint, complete ones are not repeated, one that fails does
    not stop the others.

    Args:
        tables: folders of rows.
        recipes: the configs of pre-training and transfers.
        seeds: runs of each row, with seeds 0, 1, …
        only: names of the rows to run, see `read_rows`.
        options, transfer_options: of `--cfg-options`, for pre-training and for the transfers.
        tokenizer: weights for rows that predict tokens; without them such rows are named and left out.
        workers, gpus: as of `comparison.compare`.

    Returns:
        Table -> what its `results.json` holds.

    Raises:
        ValueError: if there is no row to run, or as `read_rows`, `apply_row`, `comparison.complete`.
        FileNotFoundError: if there are no data, for pre-training or for transfers.
    """
    if seeds < 1:
        raise ValueError(f'seeds={seeds}: want 1 or more')
    chosen = read_rows(tables, only)
    cfgs = {row: apply_row(row, recipes.base, out, options or {}) for rows in chosen.values() for row in rows}
    if tokenizer:
        launch.check_file(tokenizer, '--tokenizer')
    keys = {row: row_key(cfg, tokenizer) for row, cfg in cfgs.items()}
    left_out, unprepared = prepare(cfgs, keys, out, tokenizer)
    ready = {row: cfg for row, cfg in cfgs.items() if row not in left_out and row not in unprepared}
    if not ready:
        reasons = '; '.join(f'{row.table}/{row.name}: {error}' for row, error in {**left_out, **unprepared}.items())
        raise ValueError(f'no row to run: {reasons}')
    # All configs before the first run: a mistake in one for transfers should not show after a week of pre-training.
    scratch_key = hashlib.sha256(f'{recipes}{transfer_options}'.encode()).hexdigest()
    jobs, transfers = plan(ready, keys, recipes, scratch_key, out, seeds, transfer_options or {}, gpus)
    results, errors = run_stages(jobs, workers)
    for stage, job in list(transfers.items()):
        source = stage._replace(protocol=None)
        if source in results:
            transfers[stage] = job._replace(pretrained=(source.folder(out) / 'last_checkpoint').read_text().strip())
        elif source in jobs:
            del transfers[stage]
    made, more = run_stages(transfers, workers)
    results, errors = {**results, **made}, {**errors, **more}

    summaries = {}
    for table, rows in chosen.items():
        lines = {row: {'key': keys[row], 'error': left_out.get(row), **{
            column: _values(results, keys[row], column, metric)
            for column, metric in (('finetune', 'accuracy/top1'), ('linear', 'accuracy/top1'), (None, 'recon/loss'))
        }} for row in rows}
        scratch = {column: _values(results, scratch_key, column, 'accuracy/top1') for column in COLUMNS}
        mine = {f'{row.table}/{row.name}': error for row, error in unprepared.items() if row in rows}
        of_table = {scratch_key, *(keys[row] for row in rows)}
        mine |= {stage.name: error for stage, error in errors.items() if stage.key in of_table}
        summaries[table] = write_table(
            out / table, table, lines, scratch, mine, seeds, recipes,
            {'the pre-training': options or {}, 'the transfers': transfer_options or {}})
    return summaries


def row_key(cfg: Config, tokenizer: str | None) -> str:
    """A hash of what a pre-training depends on: its config, and the weights of a tokenizer that it predicts."""
    key = hashlib.sha256(cfg.pretty_text.encode())
    if tokenizer and _target(cfg) == 'mae_mm.TokenTarget':
        key.update(Path(tokenizer).read_bytes())
    return key.hexdigest()


def prepare(
    cfgs: dict[Row, Config], keys: dict[Row, str], out: Path, tokenizer: str | None,
) -> tuple[dict[Row, str], dict[Row, str]]:
    """Look for the images of each row and give it what it predicts.

    Returns:
        Why a row is left out, by row, for those that need a tokenizer; and the errors of others.

    Raises:
        FileNotFoundError: if there are no images.
    """
    left_out, unprepared = {}, {}
    for row, cfg in cfgs.items():
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
        if _target(cfg) == 'mae_mm.TokenTarget' and not tokenizer:
            left_out[row] = 'it needs --tokenizer FILE'
            continue
        try:
            provide_target(cfg, out / 'runs' / f'{keys[row][:12]}_pca.pth', tokenizer)
        except (ValueError, OSError) as error:  # too few images for so many components, say: the other rows need none
            unprepared[row] = str(error)
    return left_out, unprepared


def plan(
    cfgs: dict[Row, Config], keys: dict[Row, str], recipes: Recipes, scratch_key: str, out: Path, seeds: int,
    options: dict, gpus: int,
) -> tuple[dict[Stage, Job], dict[Stage, Job]]:
    """The jobs of all pre-trainings, and of all transfers; rows of the same key share the stages of the first.

    Raises:
        ValueError: for a schedule that does not fit, or an encoder that a transfer does not have.
    """
    suite = Suite('', {
        'finetune': Protocol('fine-tuning', recipes.scratch, recipes.finetune),
        'linear': Protocol('linear probing', recipes.linear, recipes.linear, cost=0.5)}, TOP1, save=gpus > 1)
    starts = comparison.STARTS if recipes.scratch else ('mae', )
    made = {(protocol, start): transfer_job(protocol, start, suite, out, options, gpus)
            for protocol in suite.protocols for start in starts}
    for row, cfg in cfgs.items():
        for protocol in suite.protocols:
            check_encoder(row, cfg, getattr(recipes, protocol), made[protocol, 'mae'].cfg)
    jobs, transfers, first = {}, {}, {}
    for seed in range(seeds):
        for row, cfg in cfgs.items():
            name = first.setdefault(keys[row], f'{row.table}/{row.name}')
            jobs.setdefault(Stage(name, keys[row], seed), cfg)
        sources = [(stage, 'mae') for stage in jobs if stage.seed == seed]
        sources += [(Stage('scratch', scratch_key, seed), 'random')] * bool(recipes.scratch)
        for stage, start in sources:
            for protocol in suite.protocols:
                transfer = stage._replace(protocol=protocol)
                transfers[transfer] = transferring(transfer, made[protocol, start], out)
    return {stage: pretraining(stage, cfg, out, gpus) for stage, cfg in jobs.items()}, transfers


def provide_target(cfg: Config, path: Path, tokenizer: str | None) -> None:
    """Fit the principal components that a row predicts, at its own scale, or give it the tokenizer's weights."""
    if _target(cfg) == 'mae_mm.TokenTarget':
        cfg.model.target.weights = tokenizer
    if _target(cfg) == 'mae_mm.PCATarget':
        cfg.model.target.fitted = str(path)
        if not path.exists():
            write_content(pca.fit_to_images(cfg), path)


def pretraining(stage: Stage, cfg: Config, out: Path, gpus: int) -> Job:
    """The job of a pre-training: validated at its end, resumed from its newest checkpoint."""
    cfg = Config(cfg.to_dict())
    _name(cfg, stage, out)
    cfg.merge_from_dict({'randomness.seed': stage.seed})
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    launch.check_schedule(cfg)
    protocol = Protocol('pre-training', None, '', cost=cfg.train_cfg.max_epochs / 8)
    return Job(stage.name, cfg, None, protocol, HELD_OUT, gpus=gpus)


def transfer_job(protocol: str, start: str, suite: Suite, out: Path, options: dict, gpus: int) -> Job:
    """The job of a transfer from one of `comparison.STARTS`, which `transferring` gives a stage and a seed.

    Raises:
        FileNotFoundError, ValueError: as `comparison.make_job`.
    """
    try:
        return comparison.make_job(comparison.Run(protocol, start, 0), suite, None, out, options, gpus)
    except ValueError as error:
        raise ValueError(str(error).replace('--cfg-options', '--transfer-options')) from error


def transferring(stage: Stage, job: Job, out: Path) -> Job:
    """A transfer's job as that of one stage; its checkpoint may not exist yet."""
    cfg = copy.deepcopy(job.cfg)
    _name(cfg, stage, out)
    cfg.merge_from_dict({'randomness.seed': stage.seed})
    return job._replace(name=stage.name, cfg=cfg, draw=False)


def check_encoder(row: Row, pretraining: Config, path: str, transfer: Config) -> None:
    """Refuse a transfer of another encoder than the row pre-trains, before that is done.

    Raises:
        ValueError: naming the key, both values, and the option.
    """
    mine, other = (cfg.get('model', {}).get('backbone') or {} for cfg in (pretraining, transfer))
    for key in ('arch', 'patch_size'):
        if mine.get(key) != other.get(key):
            raise ValueError(
                f'{row.table}/{row.name} pre-trains an encoder of {key}={mine.get(key)}, {path} has {other.get(key)}; '
                f'make them the same, e.g. --transfer-options model.backbone.{key}=…')


def run_stages(jobs: dict[Stage, Job], workers: int) -> tuple[dict[Stage, dict], dict[Stage, str]]:
    """Make the runs that have no result yet; results by stage, and errors of those that failed."""
    keys = {stage: hashlib.sha256(f'{stage.key}{job.cfg.pretty_text}'.encode()).hexdigest()
            for stage, job in jobs.items()}
    return comparison.complete(jobs, keys, workers)


def write_table(
    folder: Path, name: str, lines: dict[Row, dict], scratch: dict[str, dict[int, float]], errors: dict[str, str],
    seeds: int, recipes: Recipes, changed: dict[str, dict],
) -> dict:
    """Write a table and its plot; returns what `results.json` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    header = ['row', *(f'{title}, {side}' for side in ('this run', '`paper`') for title in COLUMNS.values()), 'source']
    cells = [[row.title, *(_cell(line[key], seeds) for key in COLUMNS),
              *(f'{row.paper[key]:.1f}' if key in row.paper else '–' for key in COLUMNS), row.source]
             for row, line in lines.items()]
    if any(scratch.values()):
        cells.append(['no pre-training', *(_cell(scratch[key], seeds) for key in COLUMNS), '–', '–', ''])
    notes = [f'Not run: {row.title}: {line["error"]}.' for row, line in lines.items() if line['error']]
    notes += [f'Failed: {stage}: {error}' for stage, error in errors.items()]
    scale = f'rows applied to {recipes.base}' if recipes.base else 'the recipes of the rows'
    spread = f', mean ± standard deviation over {seeds} seeds' if seeds > 1 else ', one seed'
    caption = (
        f'This run (`ours`): {scale}, then {recipes.finetune} and {recipes.linear}; top-1 on held-out images, percent'
        f'{spread}. `paper`: ViT-L/16, 800 epochs, ImageNet-1K.')
    for part, options in changed.items():
        if options:
            caption += f' Changed for {part}: {", ".join(f"`{key}={value}`" for key, value in options.items())}.'
    text = '\n\n'.join([caption, markdown_table(header, cells), *notes])
    if name in AXES and any(line[key] for row, line in lines.items() for key in COLUMNS if _place(row) is not None):
        draw_plot(folder / 'plot.png', AXES[name], lines, scratch)
        text += '\n\n![plot](plot.png)'
    (folder / 'table.md').write_text(text + '\n')
    with (folder / 'table.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['row', 'column', 'seed', 'this_run', 'paper', 'source'])
        writer.writerows([row.title, key or 'held_out_loss', seed, f'{value:.4f}', row.paper.get(key, ''), row.source]
                         for row, line in lines.items() for key in (*COLUMNS, None)
                         for seed, value in line[key].items())
    summary = dict(
        table=name, recipes=recipes._asdict(), changed=changed, seeds=seeds, scratch=scratch, failed=errors, rows=[dict(
            name=row.name, title=row.title, source=row.source, paper=row.paper, error=line['error'],
            run=line['key'][:12], held_out_loss=line[None], **{key: line[key] for key in COLUMNS})
            for row, line in lines.items()])
    (folder / 'results.json').write_text(json.dumps(summary, indent=2) + '\n')
    return summary


def draw_plot(path: Path, label: str, lines: dict[Row, dict], scratch: dict[str, dict[int, float]]) -> None:
    """Accuracy over the number that a row's name is, this run beside the paper, one panel for each protocol.

    Rows of other names have no place in it.
    """
    lines = {row: line for row, line in lines.items() if _place(row) is not None}
    figure, labelled = Figure(figsize=(10, 4), layout='constrained'), {}
    for axes, (key, title) in zip(figure.subplots(1, 2), COLUMNS.items(), strict=True):
        mine = [(_place(row), list(line[key].values())) for row, line in lines.items() if line[key]]
        if mine:
            x, values = zip(*mine, strict=True)
            spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
            axes.errorbar(x, [statistics.mean(v) for v in values], spread, marker='o', capsize=3, label='this run')
        if scratch.get(key):
            axes.axhline(statistics.mean(scratch[key].values()), color='0.5', linestyle='--', label='no pre-training')
        axes.set(xlabel=label, ylabel='top-1, %', title=title)
        handles = axes.get_legend_handles_labels()[0]
        paper = [(_place(row), row.paper[key]) for row in lines if key in row.paper]
        if paper:  # a few of its points, so no line between them
            twin = axes.twinx()
            handles += twin.plot(*zip(*paper, strict=True), 'x', color='tab:red', label='paper (right axis)')
            twin.set_ylabel('top-1, %, paper', color='tab:red')
        labelled.update({handle.get_label(): handle for handle in handles})
        axes.grid(alpha=0.3)
    figure.legend(handles=list(labelled.values()), loc='outside lower center', ncols=3)
    figure.savefig(path, dpi=100)


def _place(row: Row) -> float | None:
    try:
        return float(row.name)
    except ValueError:
        return None


def _target(cfg: Config) -> str | None:
    return (cfg.model.get('target') or {}).get('type')


def _name(cfg: Config, stage: Stage, out: Path) -> None:
    """Give a config the names of its stage: mmengine keeps loggers and scalars of a process by experiment name."""
    folder = stage.folder(out)
    cfg.work_dir, cfg.experiment_name, cfg.launcher = str(folder), f'{folder.parent.name}_{folder.name}', 'none'
    if (cfg.get('default_hooks') or {}).get('checkpoint'):
        cfg.resume = True


def _values(results: dict[Stage, dict], key: str, column: str | None, metric: str) -> dict[int, float]:
    """One number for each seed that has a result."""
    return {stage.seed: result['metrics'][metric] for stage, result in results.items()
            if (stage.key, stage.protocol) == (key, column)}


def _cell(values: dict[int, float], seeds: int) -> str:
    """Mean and deviation, and of how many seeds where some failed."""
    return mean_and_deviation(list(values.values())) + f' (n={len(values)})' * (0 < len(values) < seeds)
