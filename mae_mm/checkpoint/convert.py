"""From one format to another, saying what was found and what was written."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint, write_checkpoint
from mae_mm.checkpoint.files import sha256, weight_files
from mae_mm.checkpoint.formats import shorten
from mae_mm.checkpoint.trust import SETTINGS


def convert(
    source: str, out: str | None, to: str | None, encoder_only: bool = False, inspect: bool = False, prefix: str = '',
    settings: Sequence[str] = (), overwrite: bool = False,
) -> None:
    """Describe a checkpoint and write it in another format (see `tools/convert_checkpoint.py --help`).

    Raises:
        FileNotFoundError: if there is nothing to read.
        ValueError: if it cannot be read, or not be written as that, or if something is there already.
    """
    if not inspect and not (out and to):
        raise ValueError('say where to write and as what (OUT --to FORMAT), or --inspect to look only')
    if not inspect:
        _check_out(source, Path(out), overwrite)
    checkpoint = read_checkpoint(source, prefix)
    checkpoint = replace(checkpoint, settings={**checkpoint.settings, **_parse(settings)})
    print(describe(checkpoint))
    if inspect:
        return
    written = checkpoint.encoder_only() if encoder_only else checkpoint
    write_checkpoint(written, out, to)
    print(f'\nwritten            {out} ({to}): {_size(written.tensors)}')
    for file in [Path(out)] if Path(out).is_file() else sorted(Path(out).glob('model*.safetensors')):
        print(f'sha256             {sha256(file)}  {file.name}')


def _check_out(source: str, out: Path, overwrite: bool) -> None:
    """Weights are not written over by mistake, and never over those that are being read."""
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ValueError(f'OUT is IN ({source}), which would be lost; name another')
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise ValueError(f'{out} is there already; name another, or add --overwrite')


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
    lines += [f'sha256             {sha256(file)}  {file.name}' for file in weight_files(checkpoint.source)]
    return '\n'.join(lines)


def _size(tensors: dict) -> str:
    return f'{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} parameters'


def _parse(settings: Sequence[str]) -> dict:
    """['num_heads=3'] -> {'num_heads': 3}."""
    parsed = {}
    for setting in settings:
        key, _, value = setting.partition('=')
        if key not in SETTINGS:
            raise ValueError(f'--set {setting}: {key!r} is none of {", ".join(SETTINGS)}')
        try:
            parsed[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            raise ValueError(f'--set {setting}: {value!r} is no number, True, False or (rows, columns)') from None
        if not SETTINGS[key](parsed[key]):
            raise ValueError(f'--set {setting}: {value} cannot be {key}')
    return parsed
