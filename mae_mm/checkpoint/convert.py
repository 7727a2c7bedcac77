"""From one format to another, with a report of what was found and what was written."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mae_mm.checkpoint.contents import read_checkpoint, write_checkpoint
from mae_mm.checkpoint.formats import Tensors, shorten
from mae_mm.checkpoint.push import push as upload
from mae_mm.checkpoint.trust import SETTINGS, check_settings


def convert(
    source: str, out: str | None, to: str | None, encoder_only: bool = False, inspect: bool = False, prefix: str = '',
    settings: Mapping | None = None, overwrite: bool = False, push: str | None = None, results: str | None = None,
) -> None:
    """Describe a checkpoint and write it in another format (see `tools/convert_checkpoint.py --help`)."""
    settings = settings or {}
    if unknown := settings.keys() - SETTINGS:
        raise ValueError(f'--set {unknown.pop()}: must be one of {", ".join(SETTINGS)}')
    if results and not Path(results).is_file():
        raise FileNotFoundError(f'--results {results}: no such file')
    if push and (inspect or not re.fullmatch(r'[^/\s]+/[^/\s]+', push)):
        raise ValueError(f'--push {push} must be OWNER/NAME, without --inspect')
    if not inspect:
        if not (out and to):
            raise ValueError('give OUT and --to FORMAT, or --inspect to write nothing')
        path = Path(out)
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise ValueError(f'OUT is the same file as IN ({source}); choose another name')
        if not overwrite and path.exists() and (path.is_file() or any(path.iterdir())):
            raise ValueError(f'{out} exists; choose another name, or add --overwrite')
    checkpoint = read_checkpoint(source, prefix)
    checkpoint = replace(checkpoint, settings=check_settings({**checkpoint.settings, **settings}))
    print(f'recognised         {source}: {checkpoint.format}')
    print(f'model              {checkpoint}')
    print(f'weights            {_size(checkpoint.tensors)}')
    for name, value in checkpoint.settings.items():
        value = dict(classes=shorten, stems_from='; '.join).get(name, str)(value)
        print(f'{name:<19}{value}')
    if checkpoint.others:
        print(f'others             {_size(checkpoint.others)}: {shorten(checkpoint.others)} (not converted)')
    if not inspect:
        written = checkpoint.encoder_only() if encoder_only else checkpoint
        write_checkpoint(written, out, to)
        print(f'\nwritten            {out} ({to}): {_size(written.tensors)}')
    if push:
        print(f'uploaded           {upload(push, path, to, written, source, results)}')


def _size(tensors: Tensors) -> str:
    return f'{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} parameters'
