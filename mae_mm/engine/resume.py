"""Which checkpoint a run continues from, and whether it is one of this model."""

import ast
import logging
import os
import re
import shlex
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from mae_mm.checkpoint.files import load_torch, refusal

BETWEEN = 'latest.pth'  # between the regular checkpoints, see hooks/checkpoint.py
OF_A_RUN = re.compile(rf'(epoch|iter)_\d+\.pth|{re.escape(BETWEEN)}')
RESTORED = (  # settings that the checkpoint decides
    'optim_wrapper.optimizer.', 'optim_wrapper.paramwise_cfg.', 'param_scheduler', 'auto_scale_lr.')


def choose_checkpoint(cfg: Config, checkpoint: str) -> None:
    """`--resume`: continue from a checkpoint, 'auto' for the newest in the work folder that is not damaged."""
    if checkpoint == 'auto':
        found = newest_checkpoint(cfg.work_dir)
        cfg.resume, cfg.load_from = found is not None, str(found) if found else None
        return
    if '://' not in checkpoint:
        read_training_state(checkpoint)
        if starts_first() and (reason := broken_part(checkpoint)):
            raise ValueError(f'--resume {checkpoint}: damaged, {reason}; --resume alone takes the newest good one')
    cfg.resume, cfg.load_from = True, checkpoint


def check_unused(work_dir: str) -> None:
    """Refuse to start a new run among the checkpoints of another: it would overwrite some and return to others."""
    if found := checkpoints_of(work_dir):
        folder = shlex.quote(str(found[-1].parent))
        raise ValueError(
            f'{work_dir} has checkpoints of an earlier run ({found[-1].name}{", …" if len(found) > 1 else ""}): resume '
            f'it (--resume), start in another folder (--work-dir), or remove them (rm {folder}/*.pth)')


def newest_checkpoint(work_dir: str | Path, avoid: Collection[Path] = ()) -> Path | None:
    """The undamaged checkpoint of a work folder with the most iterations; None if there is none.

    Damaged files stay where they are, and a warning names them; ValueError if none is left. Those in `avoid` are taken
    only if there is no other. Of several processes the first alone compares checksums; the others take its choice.
    """
    damaged, candidates = [], []
    for path in checkpoints_of(work_dir):
        try:
            candidates.append((path not in avoid, read_training_state(path)['meta']['iter'], path))
        except (OSError, ValueError) as error:
            damaged.append(str(error))
    candidates.sort()
    while candidates and starts_first() and (reason := broken_part(candidates[-1][-1])):
        damaged.append(f'{candidates.pop()[-1]}: {reason}')
    names = '\n  '.join(damaged)
    if damaged and not candidates:
        raise ValueError(
            f'every checkpoint in {work_dir} is damaged:\n  {names}\nName an undamaged copy with --resume PATH, or '
            'remove them and start again without --resume')
    if damaged:
        print_log(f'DAMAGED CHECKPOINTS are ignored:\n  {names}', 'current', logging.WARNING)
    return candidates[-1][-1] if candidates else None


def starts_first() -> bool:
    """Whether the launcher calls this process the first; known before the processes have met."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def checkpoints_of(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a run in its work folder or, if it has none, where its `last_checkpoint` says that they are."""
    found = _of_a_run(Path(work_dir))
    pointer = Path(work_dir) / 'last_checkpoint'
    if not found and pointer.is_file():  # a copied work folder may name the original's
        try:
            last = Path(os.fsdecode(pointer.read_bytes().strip()))
            found = _of_a_run(last.parent) | ({last} if last.is_file() else set())
        except (OSError, ValueError) as error:  # a machine that stopped may leave any bytes
            print_log(f'{pointer} names no checkpoint: {error}', 'current', logging.WARNING)
    return sorted(found)


def _of_a_run(folder: Path) -> set[Path]:
    return {path for path in folder.glob('*.pth') if OF_A_RUN.fullmatch(path.name)}


def read_training_state(path: str | Path) -> dict:
    """The content of a checkpoint that mmengine's Runner wrote; tensors stay in the file until they are used."""
    try:
        state = load_torch(path, mmap=True)
        meta = state['meta']
        # mmengine writes no `config`, but would run it as Python.
        if [type(meta['iter']), type(meta['epoch']), 'config' in meta] != [int, int, False]:
            raise TypeError('no iteration or epoch, or code in place of a config')
        state['state_dict'].items()
        return state
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes make readers fail in all ways
        reason = f'{type(error).__name__}: {str(error)[:200]}'.splitlines()[0]
        raise ValueError(refusal(path, error) or (
            f'{path} is damaged, or not a checkpoint of a training run ({reason})')) from None


def broken_part(path: str | Path) -> str | None:
    """Compare every byte with its checksum, which torch.load does not; returns what is wrong, None if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
        return name and f'{name} differs from its checksum'
    except Exception as error:  # as above
        return f'{type(error).__name__}: {error}'


def check_resume(runner: Runner) -> None:
    """Refuse to resume a checkpoint of another model, and report settings of the config that the checkpoint overrides.

    All processes take the checkpoint that the first has chosen.
    """
    chosen = [runner._resume, runner._load_from]
    broadcast_object_list(chosen)
    runner._resume, runner._load_from = chosen
    path = runner._load_from
    if not runner._resume or path is None or '://' in path or not isinstance(runner.model, nn.Module):
        return  # FlexibleRunner builds its model later, and mae_mm.FSDPStrategy compares it then
    state = read_training_state(path)
    saved = {name.removeprefix('module.'): tuple(value.shape) for name, value in state['state_dict'].items()}
    wanted = {name.removeprefix('module.'): tuple(value.shape) for name, value in runner.model.state_dict().items()}
    differences = [
        f'{name}: {saved.get(name, "none")} in the file, {wanted.get(name, "none")} in the model'
        for name in wanted | saved if saved.get(name) != wanted.get(name)]
    if differences:
        raise ValueError(
            f'--resume {path}: a checkpoint of another model than {runner.cfg.filename} describes, with '
            f'{len(differences)} different weights, for example\n  ' + '\n  '.join(differences[:3])
            + '\nResume with the config and options of the run that wrote it, or start from its weights: --pretrained')
    saved_cfg, present_cfg = state['meta'].get('cfg') or '', runner.cfg.pretty_text
    ignored = changes_without_effect(saved_cfg, present_cfg) if saved_cfg else []
    before, now = read_settings(saved_cfg), read_settings(present_cfg)
    for unit in ('epochs', 'iters'):
        old, new = (settings.get(f'train_cfg.max_{unit}') for settings in (before, now))
        if old and new and old != new:
            runner.logger.warning(
                f'train_cfg.max_{unit}: the run now ends after {new} {unit}; the learning rate keeps the schedule of '
                f'{old} {unit}, and its last value afterwards')
    if ignored:
        runner.logger.warning(
            'WITHOUT EFFECT in a resumed run, whose checkpoint restores optimizer and schedules:\n  '
            + '\n  '.join(ignored) + '\nThe lr continues as the run began, and keeps its last value after the end of '
            'the schedule. For other settings start a new run: --work-dir NEW '
            f'--cfg-options load_from={shlex.quote(path)}')


def changes_without_effect(saved: str, present: str) -> list[str]:
    """A line 'key: before -> now' for each changed setting that the checkpoint decides, from texts of two configs."""
    before, now = read_settings(saved), read_settings(present)
    return [
        f'{key}: {before.get(key, "not set")} -> {now.get(key, "not set")}' for key in sorted(before | now)
        if key.startswith(RESTORED) and before.get(key) != now.get(key)]


def read_settings(text: str) -> dict[str, str]:
    """Keys and values, as text, of a config that is parsed, not run; {} if it is not valid Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {key: value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            for key, value in _flatten(node.targets[0].id, node.value)}


def _flatten(key: str, node: ast.expr) -> Iterator[tuple[str, str]]:
    """A value's parts: `dict(…)`, `{…}`, lists and tuples are taken apart, everything else is text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [(one.arg, one.value) for one in node.keywords if one.arg]
    elif isinstance(node, ast.Dict):
        parts = [(one.value, value) for one, value in zip(node.keys, node.values, strict=True)
                 if isinstance(one, ast.Constant)]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = list(enumerate(node.elts))
    else:
        yield key, ast.unparse(node)
        return
    for name, value in parts:
        yield from _flatten(f'{key}.{name}', value)
