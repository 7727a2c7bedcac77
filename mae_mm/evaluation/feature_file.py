"""Features on the disk: a file that grows image by image, survives a kill, and appears under its name when complete."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np

from mae_mm.checkpoint.files import PARTIAL, write_beside
from mae_mm.datasets.limits import read_json

ROWS, NAMES, UNREADABLE, STATE = 'features', 'names.txt', 'unreadable.txt', 'state.json'
GROWING = (ROWS, NAMES, UNREADABLE)
KEY = 'features'  # of the array in safetensors, of the column in parquet
HEADER = 256  # bytes before the rows of a safetensors file
GROUP = 1 << 25  # bytes of features in a row group of parquet
INTERVAL = 5.0  # seconds between two states that a killed run can continue from
AS_BYTES = dict(encoding='utf-8', errors='surrogateescape')  # names of files are bytes


def npy_header(shape: Sequence[int]) -> bytes:
    """NumPy pads it so that the number of rows may grow: its length does not depend on them."""
    np.lib.format.write_array_header_1_0(file := BytesIO(), dict(descr='<f4', fortran_order=False, shape=tuple(shape)))
    return file.getvalue()


def safetensors_header(shape: Sequence[int]) -> bytes:
    entry = dict(dtype='F32', shape=list(shape), data_offsets=[0, 4 * prod(shape)])
    text = json.dumps({KEY: entry}).encode().ljust(HEADER - 8)  # spaces at the end are part of the format
    return len(text).to_bytes(8, 'little') + text


# What stands before the rows, which are float32, little-endian; parquet is made from them at the end.
HEADERS: dict[str, Callable[[Sequence[int]], bytes]] = {
    '.npy': npy_header, '.safetensors': safetensors_header, '.parquet': lambda shape: b''}
HOW_TO_READ = {
    '.npy': "numpy.load('{0}', mmap_mode='r')", '.safetensors': "safetensors.numpy.load_file('{0}')['features']",
    '.parquet': "pyarrow.parquet.read_table('{0}')"}


def check_name(out: str | Path) -> Path:
    """The path of a file of features, if it can be written."""
    path = Path(out)
    if path.suffix not in HEADERS:
        raise ValueError(f'--out {out} must end with one of {", ".join(HEADERS)}')
    if path.is_dir():
        raise IsADirectoryError(f'--out {out} is a folder; give the name of a file')
    if path.suffix == '.parquet':
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(f'--out {out} needs pyarrow: pip install "mae_mm[embed]"; .npy needs nothing') from None
    return path


class FeatureFile:
    """One row of float32 for each readable image of a list, written in the order of the list.

    Until all rows are there they lie in the folder `OUT.partial/`, with the state from which the same run continues.
    Then OUT appears, with `OUT.names.txt` (not beside parquet, which has them), `OUT.json`, which says how it was made,
    and `OUT.unreadable.txt` if images were left out.

    Args:
        out: its suffix decides the format.
        shape: of a row.
        made_by: what determines the features. Rows of a run that was made by something else are refused.
        overwrite: start anew, whatever is there; a finished file is replaced when the new one is complete.

    Attributes:
        position: images of the list that are done, also unreadable ones.
        count: rows.
        unreadable: positions of the images that were left out.
        complete: whether OUT is there.
    """

    def __init__(self, out: str | Path, shape: Sequence[int], made_by: dict, overwrite: bool = False) -> None:
        self.out, self.shape, self.made_by = check_name(out), tuple(shape), made_by
        self.folder = self.out.with_name(self.out.name + PARTIAL)
        self.sidecars = {name: self.out.with_name(f'{self.out.name}.{name}') for name in (NAMES, UNREADABLE)}
        self.record = self.out.with_name(f'{self.out.name}.json')
        self.header, self.row_bytes = HEADERS[self.out.suffix], 4 * prod(self.shape)
        self.position, self.unreadable, self.complete, sizes = 0, [], False, {}
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif all((self.folder / name).exists() for name in (STATE, ROWS)):
            state = self._read(self.folder / STATE)
            self.position, self.unreadable, sizes = state['position'], state['unreadable'], state['sizes']
        elif self.out.exists():
            self.unreadable = self._read(self.record)['unreadable']
            self.position, self.complete = made_by['images'], True
        if self.complete:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed when it had finished
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.opened = ExitStack()
        self.files = {
            name: self.opened.enter_context(open(self.folder / name, 'ab')) for name in GROWING}  # noqa: SIM115
        sizes = sizes or {ROWS: len(self.header((0, *self.shape))), NAMES: 0, UNREADABLE: 0}
        for name, file in self.files.items():  # what a killed run wrote behind its last state goes
            file.truncate(sizes[name])
            file.seek(sizes[name])
        self.saved = time.monotonic()

    @property
    def count(self) -> int:
        return self.position - len(self.unreadable)

    def _read(self, path: Path) -> dict:
        """A state or record that was made by the same as this one."""
        found = json.loads(path.read_bytes()) if path.exists() else {}
        others = {key: found.get('made_by', {}).get(key) for key in self.made_by}
        if changed := [key for key in self.made_by if others[key] != json.loads(json.dumps(self.made_by[key]))]:
            change = ', '.join(f'{key} {others[key]}, now {self.made_by[key]}' for key in changed)
            raise ValueError(
                f'{self.out} {"was begun" if path.name == STATE else "was written"} with other settings or data '
                f'({change if others[changed[0]] is not None else "they are not known"}); give another --out, or '
                '--overwrite to start anew')
        return found

    def append(self, rows: np.ndarray, names: Sequence[str], unreadable: Sequence[tuple[int, str, str]]) -> None:
        """Add the next images of the list: rows and names of the readable ones; position, name and reason of others."""
        lines = {NAMES: names, UNREADABLE: [f'{name}\t{reason}' for _, name, reason in unreadable]}
        self.files[ROWS].write(np.ascontiguousarray(rows, dtype='<f4').data)
        for file, texts in lines.items():
            self.files[file].write(''.join(f'{text}\n' for text in texts).encode(**AS_BYTES))
        self.position += len(names) + len(unreadable)
        self.unreadable += [position for position, _, _ in unreadable]

    def save(self, now: bool = False) -> None:
        """Write the state from which a killed run continues, if the last one is old."""
        if not now and time.monotonic() - self.saved < INTERVAL:
            return
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        state = dict(made_by=self.made_by, position=self.position, unreadable=self.unreadable,
                     sizes={name: file.tell() for name, file in self.files.items()})
        write_beside(self.folder / STATE, lambda partial: partial.write_text(json.dumps(state)))
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Give the rows their header and all files their names; a kill in between loses nothing."""
        self.save(now=True)
        self.close()
        shape = (self.count, *self.shape)
        if self.out.suffix == '.parquet':
            write_beside(whole := self.folder / f'{ROWS}.parquet', self._write_parquet)
        else:
            with open(whole := self.folder / ROWS, 'r+b') as file:
                file.write(self.header(shape))
                os.fsync(file.fileno())
        self.out.unlink(missing_ok=True)  # an old one must not stand beside new names
        record = dict(made_by=self.made_by, shape=shape, unreadable=self.unreadable)
        write_beside(self.record, lambda partial: partial.write_text(json.dumps(record) + '\n'))
        for name, path in self.sidecars.items():
            if (self.folder / name).stat().st_size and not (name == NAMES and self.out.suffix == '.parquet'):
                shutil.copyfile(self.folder / name, path)
            else:
                path.unlink(missing_ok=True)
        whole.replace(self.out)
        shutil.rmtree(self.folder)
        self.complete = True

    def close(self) -> None:
        self.opened.close()

    def _write_parquet(self, path: Path) -> None:
        """Columns `name` and `features`, a row group at a time, from the files that grew."""
        import pyarrow as pa
        from pyarrow import parquet

        kind = pa.float32()
        for side in reversed(self.shape):
            kind = pa.list_(kind, side)
        schema = pa.schema([('name', pa.string()), (KEY, kind)], metadata={'mae_mm': json.dumps(self.made_by)})
        size = max(1, GROUP // self.row_bytes)
        with ExitStack() as opened:
            sink = opened.enter_context(open(path, 'wb'))  # Python's, so that a full disk is an OSError
            rows = opened.enter_context(open(self.folder / ROWS, 'rb'))
            names = opened.enter_context(open(
                self.folder / NAMES, newline='\n', encoding='utf-8', errors='backslashreplace'))
            writer = opened.enter_context(parquet.ParquetWriter(sink, schema, use_dictionary=False))
            while group := [name.rstrip('\n') for name in islice(names, size)]:
                column = pa.array(np.fromfile(rows, '<f4', len(group) * self.row_bytes // 4))
                for side in reversed(self.shape):
                    column = pa.FixedSizeListArray.from_arrays(column, side)
                writer.write_table(pa.table([pa.array(group), column], schema=schema), row_group_size=size)

    def read(self) -> np.ndarray:
        """The rows, memory-mapped; of parquet, which cannot be, in memory."""
        shape = (self.count, *self.shape)
        if self.out.suffix == '.parquet':
            from pyarrow import parquet

            column = parquet.read_table(self.out, columns=[KEY])[KEY].combine_chunks()
            for _ in self.shape:
                column = column.flatten()
            return np.array(column).reshape(shape)
        return np.memmap(self.out, '<f4', 'c', len(self.header(shape)), shape)

    def names(self) -> list[str]:
        """The name of each row's image."""
        if self.out.suffix == '.parquet':
            from pyarrow import parquet

            return parquet.read_table(self.out, columns=['name'])['name'].to_pylist()
        return self.sidecars[NAMES].read_bytes().decode(**AS_BYTES).split('\n')[:-1]

    def __str__(self) -> str:
        names = 'column name' if self.out.suffix == '.parquet' else f'names in {self.sidecars[NAMES]}'
        left_out = f'; {len(self.unreadable)} unreadable images are left out: {self.sidecars[UNREADABLE]}'
        return (
            f'{self.out}: {self.count:,} x {" x ".join(map(str, self.shape))} float32, {names}; read it with '
            f'{HOW_TO_READ[self.out.suffix].format(self.out)}' + left_out * bool(self.unreadable))


def open_features(path: str | Path) -> tuple[np.ndarray, list[str], dict]:
    """A finished file: its rows, (images, …) float32, the names of their images, and what it was made by."""
    path = Path(path)
    if path.suffix not in HEADERS or not path.is_file():
        raise FileNotFoundError(f'{path}: no file of features; tools/embed.py writes one, {", ".join(HEADERS)}')
    if path.with_name(path.name + PARTIAL).exists():
        raise ValueError(f'{path} is being written, or its run was stopped ({path.name}{PARTIAL}); finish it first')
    record = read_json(f'{path}.json')
    if not (isinstance(record, dict) and {'shape', 'made_by'} <= record.keys()):
        raise ValueError(f'{path}.json does not say how {path.name} was made; write both again with tools/embed.py')
    file = FeatureFile(path, record['shape'][1:], record['made_by'])
    return file.read(), file.names(), file.made_by
