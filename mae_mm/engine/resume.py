"""Which checkpoint a run goes on from: the newest one that can be read."""

import logging
import os
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import print_log

from mae_mm.checkpoint.files import MMENGINE_OBJECTS, refusal

BETWEEN = 'latest.pth'  # between the regular checkpoints, see hooks/checkpoint.py
OF_A_RUN = re.compile(rf'(epoch|iter)_\d+\.pth|{re.escape(BETWEEN)}')


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that cannot be gone on from, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f'{self.path}: {self.reason}'


def newest_checkpoint(work_dir: str | Path, avoid: Collection[Path] = ()) -> Path | None:
    """The checkpoint of a work folder that went furthest, read to its last byte; None where there is none.

    Damaged files are left where they are, and named in a warning.

    Args:
        avoid: files to take only if there is no other.

    Raises:
        ValueError: if there are checkpoints, but not one of them can be read.
    """
    damaged, candidates = [], []
    for path in checkpoints_of(work_dir):
        place = _place(path)
        (damaged if isinstance(place, Damaged) else candidates).append(place)
    chosen = None
    for _, path in sorted(candidates, key=lambda found: (found[1] not in avoid, found), reverse=True):
        reason = broken_part(path)
        if reason is None:
            chosen = path
            break
        damaged.append(Damaged(path, reason))
    if damaged:
        names = '\n  '.join(map(str, damaged))
        if chosen is None:
            raise ValueError(
                f'every checkpoint in {work_dir} is damaged:\n  {names}\nPut a good copy there and name it with '
                '--resume PATH, or remove them and start anew without')
        print_log(f'DAMAGED CHECKPOINTS are left out:\n  {names}\ngoing on from {chosen}', 'current', logging.WARNING)
    return chosen


def checkpoints_of(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a run in its work folder or, if it has none, where its `last_checkpoint` says that they are."""
    found = _of_a_run(Path(work_dir))
    pointer = Path(work_dir) / 'last_checkpoint'
    if not found and pointer.is_file():  # the folder of a copied run may hold the place of the original
        try:
            last = Path(os.fsdecode(pointer.read_bytes().strip()))
            found = _of_a_run(last.parent) | ({last} if last.is_file() else set())
        except (OSError, ValueError) as error:  # a machine that stopped may leave any bytes
            print_log(f'{pointer} names no checkpoint: {error}', 'current', logging.WARNING)
    return sorted(found)


def _of_a_run(folder: Path) -> set[Path]:
    return {path for path in folder.glob('*.pth') if OF_A_RUN.fullmatch(path.name)}


def read_training_state(path: str | Path) -> dict:
    """What mmengine's Runner wrote; tensors are mapped from the file, and read where they are touched.

    Raises:
        ValueError: if the file is damaged, or none of mmengine's.
    """
    try:
        allowed = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([obj for obj in MMENGINE_OBJECTS if obj not in allowed]):
            state = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        if not (isinstance(state['meta']['iter'], int) and isinstance(state['meta']['epoch'], int)
                and isinstance(state['state_dict'], dict)):
            raise TypeError('no iteration, epoch or weights')
        if 'config' in state['meta']:  # mmengine writes no such key, but would run it as Python
            raise TypeError('code in place of a config')
        return state
    except Exception as error:  # damaged bytes make readers fail in all ways
        if refused := refusal(path, error):
            raise ValueError(refused) from None
        size = Path(path).stat().st_size if Path(path).is_file() else 0
        reason = (str(error).splitlines() or [''])[0][:200]
        raise ValueError(
            f'{path} is damaged, or no checkpoint of a training run ({size:,} bytes; {type(error).__name__}: '
            f'{reason})') from error


def broken_part(path: str | Path) -> str | None:
    """Compare every byte with its checksum, which torch.load does not; gives what is wrong, None if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
        return None if name is None else f'{name} differs from its checksum'
    except Exception as error:  # as above
        return f'{type(error).__name__}: {error}'


def _place(path: Path) -> tuple[int, Path] | Damaged:
    """How far a checkpoint goes: its iteration."""
    try:
        return read_training_state(path)['meta']['iter'], path
    except ValueError as error:
        return Damaged(path, str(error).removeprefix(f'{path} '))
