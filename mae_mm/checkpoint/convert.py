"""From one format to another, with a report of what was found and what was written."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint, write_checkpoint
from mae_mm.checkpoint.formats import Tensors, shorten
from mae_mm.checkpoint.trust import SETTINGS


def convert(
    source: str, out: str | None, to: str | None, encoder_only: bool = False, inspect: bool = False, prefix: str = '',
    settings: Sequence[str] = (), overwrite: bool = False,
) -> None:
    """Describe a checkpoint and write it in another format (see `tools/convert_checkpoint.py --help`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or cannot be written in that format, or if OUT exists.
    """
    if not inspect:
        if not (out and to):
            raise ValueError('give OUT and --to FORMAT, or --inspect to write nothing')
        _check_out(Path(source), Path(out), overwrite)
    checkpoint = read_checkpoint(source, prefix)
    checkpoint = replace(checkpoint, settings={**checkpoint.settings, **_parse(settings)})
    print(describe(checkpoint))
    if not inspect:
        written = checkpoint.encoder_only() if encoder_only else checkpoint
        write_checkpoint(written, out, to)
        print(f'\nwritten            {out} ({to}): {_size(written.tensors)}')


def _check_out(source: Path, out: Path, overwrite: bool) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f'OUT is the same file as IN ({source}); choose another name')
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise ValueError(f'{out} exists; choose another name, or add --overwrite')


def describe(checkpoint: Checkpoint) -> str:
    """What a checkpoint is, line by line."""
    lines = [
        f'recognised         {checkpoint.source}: {checkpoint.format}',
        f'model              {checkpoint}',
        f'decoder            {"yes" if checkpoint.has_decoder else "no (encoder only: it cannot reconstruct images)"}',
        f'weights            {_size(checkpoint.tensors)}']
    lines += [f'{name:<19}{value}' for name, value in checkpoint.settings.items()]
    if checkpoint.others:
        lines.append(f'others             {_size(checkpoint.others)}: {shorten(checkpoint.others)} (not converted)')
    return '\n'.join(lines)


def _size(tensors: Tensors) -> str:
    return f'{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} parameters'


def _parse(settings: Sequence[str]) -> dict:
    """['num_heads=3'] -> {'num_heads': 3}."""
    parsed = {}
    for setting in settings:
        key, _, value = setting.partition('=')
        if key not in SETTINGS:
            raise ValueError(f'--set {setting}: {key!r} is not one of {", ".join(SETTINGS)}')
        try:
            parsed[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parsed[key] = None
        if not SETTINGS[key](parsed[key]):
            raise ValueError(f'--set {setting}: {value!r} is not a valid {key}')
    return parsed
