"""The notebook of the docs runs from its first cell to its last, at a smaller scale."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(ROOT / 'docs/tutorial.ipynb', as_version=4)
    settings = next(cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', ()))
    settings.source += '\nEPOCHS, MINUTES, SCALE = 3, 1, 0.05'
    (tmp_path / 'mae-mm').write_text(f'#!/bin/sh\nexec {sys.executable} -m mae_mm "$@"\n')  # as an installation has it
    (tmp_path / 'mae-mm').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    NotebookClient(
        notebook, timeout=1800, kernel_name='python3', resources=dict(metadata=dict(path=tmp_path))).execute()
    printed = ''.join(output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', ()))
    assert 'Masked loss on held-out images' in printed
    assert (tmp_path / 'report/report.html').stat().st_size > 1000
    shown = [kind for cell in notebook.cells for output in cell.get('outputs', ()) for kind in output.get('data', ())]
    assert shown.count('image/png') == 2 and 'text/html' in shown
