"""Tables of ablations and their rows. A table is one file; a row says what it changes in its base."""

import re
import runpy
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mae_mm.engine import runner as launch
from mae_mm.paths import ROOT, find_config

PROTOCOLS = {'finetune': 'fine-tuning', 'linear': 'linear probing'}
PLACE = re.compile(r'{{ *_base_\.([\w.]+) *}}')


class Row(NamedTuple):
    """A row of a table: a pre-training and how its encoder is transferred."""

    table: str
    name: str
    title: str
    options: dict  # of `--cfg-options`, for its base; '{{_base_.KEY}}' stands for a value of the base
    source: str  # where the published numbers are from
    finetune: float | None = None  # published top-1, percent
    linear: float | None = None
    base: str = 'configs/ablation/vit_l16.py'  # config of the pre-training that it changes
    transfers: dict = {}  # as in a base, where those of the base do not fit

    @property
    def path(self) -> str:
        return f'{self.table}/{self.name}'


class Table(NamedTuple):
    """A table: `title`, `rows` and `axis` of its file; `source`, `base` and `transfers` of the file are in the rows."""

    name: str  # of the file
    title: str
    rows: dict[str, Row]
    axis: str = ''  # label of a plot over the rows whose names are numbers


def read_tables(paths: Sequence[Path], only: Sequence[str] | None = None) -> dict[str, Table]:
    """Tables by name, with the rows of `only`: ROW or TABLE/ROW. A table without any of them is left out."""
    tables = {path.stem: read_table(path) for path in paths}
    if len(tables) < len(paths):
        raise ValueError(f'two tables have the same name ({", ".join(map(str, paths))}); run them one by one')
    rows = [row for table in tables.values() for row in table.rows.values()]
    if unknown := set(only or ()) - {name for row in rows for name in (row.name, row.path)}:
        raise ValueError(
            f'no row {", ".join(sorted(unknown))}; the rows are {", ".join(row.path for row in rows)}')
    chosen = {name: table._replace(rows={
        row.name: row for row in table.rows.values() if not only or {row.name, row.path} & set(only)})
        for name, table in tables.items()}
    return {name: table for name, table in chosen.items() if table.rows}


def read_table(path: Path) -> Table:
    """Read the file of a table, which is Python, as a config is."""
    found = find_config(path)
    if found is None:
        raise FileNotFoundError(f'no table {path}; the tables of the paper are in {ROOT / "configs/ablation"}')
    try:
        content = runpy.run_path(str(found))
        shared = {key: content[key] for key in ('source', 'base', 'transfers') if key in content}
        rows = {name: Row(path.stem, name, **{'source': '`ours`', **shared, **row})
                for name, row in content['rows'].items()}
    except Exception as error:  # Python may fail in all ways
        raise ValueError(
            f"{path} is not a valid table, which has rows = {{'NAME': dict(title='…', options={{'KEY': VALUE}}), …}}: "
            f'{type(error).__name__}: {error}') from error
    return Table(path.stem, content.get('title', path.stem), rows, content.get('axis', ''))


def apply_row(row: Row, base: str | None = None, options: dict | None = None) -> Config:
    """The pre-training config of a row, changed by `options`; on another base its epochs are in proportion."""
    parent = launch.load_config(base or row.base)
    changes = fill(row.options, parent)
    if base and 'train_cfg.max_epochs' in changes:
        share = changes['train_cfg.max_epochs'] / launch.load_config(row.base).train_cfg.max_epochs
        changes['train_cfg.max_epochs'] = max(1, round(share * parent.train_cfg.max_epochs))
    try:
        cfg = launch.load_config(base or row.base, {**changes, **(options or {})})
    except ValueError as error:
        raise ValueError(f'{row.path}: {error}') from error
    cfg.pop('transfers', None)
    return cfg


def fill(value: object, base: Config) -> object:
    """A copy of a row's options, with the values of the base in their places."""
    if isinstance(value, dict):
        return {key: fill(one, base) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(one, base) for one in value)
    found = PLACE.fullmatch(value) if isinstance(value, str) else None
    return attrgetter(found[1])(base) if found else value


def find_transfers(row: Row, base: str | None = None) -> dict[str, str]:
    """The configs that transfer a row's encoder (those of `base` if one is given): `finetune`, `linear`, `scratch`."""
    where = base or row.base
    transfers = (not base and row.transfers) or launch.load_config(where).get('transfers') or {}
    if not transfers.keys() & PROTOCOLS.keys():
        raise ValueError(
            f"{where} must name the configs that transfer its encoder, transfers = dict(finetune='…', linear='…'), as "
            f'configs/demo/ablation.py does, got {transfers}')
    return dict(transfers)
