"""`tools/dist_train.sh` with a command in the place of torchrun: its exit codes, and the signals that it passes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import ROOT

PYTHON = """#!/bin/bash
trap 'echo 75 > "$MAE_MM_EXIT_FILE"; exit 1' TERM
touch "$STARTED"
[ "$CODE" = 0 ] && exit 0
[ "$CODE" = 1 ] && exit 1
[ "$CODE" = wait ] || { printf '%s\\n%s' "$CODE" 'why' > "$MAE_MM_EXIT_FILE"; exit 1; }
for i in $(seq 600); do sleep 0.1; done
"""


def start(tmp_path: Path, code: str, processes: str = '2') -> subprocess.Popen:
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)
    return subprocess.Popen(
        ['bash', 'tools/dist_train.sh', 'CONFIG', processes], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CODE': code, 'STARTED': str(tmp_path / 'on')})


@pytest.mark.parametrize('code', [0, 1, 2, 3, 75])
def test_it_ends_with_the_code_of_its_processes(tmp_path: Path, code: int) -> None:
    process = start(tmp_path, str(code))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == ('why' if code > 1 else ''), 'what the run said comes last, below what torchrun prints'


@pytest.mark.parametrize('processes', ['0', '-1', 'two', '1.5'])
def test_a_number_of_processes_that_is_none_is_named(tmp_path: Path, processes: str) -> None:
    process = start(tmp_path, '0', processes)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and 'GPUS' in errors and f"'{processes}'" in errors
    assert not (tmp_path / 'on').exists()


def test_a_signal_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    process = start(tmp_path, 'wait')
    end = time.monotonic() + 60
    while not (tmp_path / 'on').exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
