"""Arguments of tools/transfer.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.tools import run_tool


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / 'mine.pth').touch()
    return tmp_path / 'mine.pth'


@pytest.mark.parametrize(('flags', 'message'), [
    (['--epochs', 0], 'argument --epochs: must be a whole number above 0, got 0'),
    (['--epochs', -3], 'argument --epochs: must be a whole number above 0, got -3'),
    (['--seeds', 0], 'argument --seeds: must'), (['--seeds', -1], 'argument --seeds: must'),
    (['--size', 0], 'argument --size: must'), (['--size', -8], 'argument --size: must'),
    (['--minutes', 0], '--minutes 0.0 must be above 0'), (['--minutes', 'nan'], '--minutes nan must be'),
    (['--minutes', 5, '--epochs', 3], '--minutes and --epochs both set the length'),
    (['--epochs', 3, 4], '--data takes one number of --epochs, got 2'),
    (['--starts', 'mae'], '--starts is for --suite'), (['--gpus', 2], '--gpus is for --suite'),
    (['--fractions', 0], '--fractions 0.0 must be in (0, 1]'), (['--fractions', 0.5, 2], '--fractions 2.0 must be'),
    (['--out', '/proc/none/report'], '--out /proc/none/report: cannot create this folder'),
])
def test_mistakes_are_named(
        flags: list, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        run_tool('transfer', checkpoint, '--data', tmp_path, '--out', tmp_path / 'out', *flags)
    assert f'transfer.py: error: {message}' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_several_checkpoints_need_data(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        run_tool('transfer', checkpoint, checkpoint, '--suite', 'demo')
    assert '--suite takes one checkpoint, got 2' in capsys.readouterr().err


def test_a_missing_checkpoint_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        'import runpy, sys; sys.argv = ["tools/transfer.py", "none.pth", "--data", "x"]\n'
        'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
        'finally: print("torch" in sys.modules)')
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=dict(os.environ), text=True, capture_output=True, timeout=120)
    assert result.returncode == 2 and 'CHECKPOINT none.pth: no such file' in result.stderr
    assert result.stdout == 'False\n'
