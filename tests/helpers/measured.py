"""Figures that long runs measured, written into docs/reliability.md."""

import os
import platform
import re
from datetime import date
from pathlib import Path

from helpers import ROOT

DOC = ROOT / 'docs' / 'reliability.md'


def write_block(name: str, lines: list[str], doc: Path = DOC) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a document.

    Raises:
        ValueError: if the document has no such place.
    """
    head = f'Measured {date.today():%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Python ' \
        f'{platform.python_version()}:'
    block = '\n'.join([f'<!-- {name} -->', head, '', *lines, f'<!-- /{name} -->'])
    text, count = re.subn(
        rf'<!-- {name} -->.*?<!-- /{name} -->', lambda _: block, doc.read_text(encoding='utf-8'), flags=re.DOTALL)
    if count != 1:
        raise ValueError(f'{doc} has {count} places for {name}, not one')
    doc.write_text(text, encoding='utf-8')
