"""`tools/dist_train.sh` with a command in the place of torchrun: its exit codes, and the signals that it passes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import ROOT

# Like torchrun, it ends its process after a signal before that has written its checkpoint.
PYTHON = """#!/bin/bash
touch "$STARTED"
[ "$CODE" = 0 ] && exit 0
[ "$CODE" = 1 ] && exit 1
[ "$CODE" = wait ] || { printf '%s\\n%s' "$CODE" 'why' > "$MAE_MM_EXIT_FILE"; exit 1; }
rm "$STARTED"; set -m
bash -c 'trap "sleep 1; echo 75 > \\"$MAE_MM_EXIT_FILE\\"; exit 75" TERM INT USR1
touch "$STARTED"
for i in $(seq 600); do sleep 0.1; done' &
trap "kill -KILL $!; exit 1" TERM INT USR1
wait
exit 1
"""


def start(tmp_path: Path, code: str, processes: str = '2') -> subprocess.Popen:
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)
    return subprocess.Popen(
        ['bash', 'tools/dist_train.sh', 'CONFIG', processes], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CODE': code, 'STARTED': str(tmp_path / 'on')})


@pytest.mark.parametrize(('arguments', 'code'), [(['--help'], 0), ([], 2), (['CONFIG'], 2)])
def test_its_usage(arguments: list[str], code: int) -> None:
    ended = subprocess.run(['bash', 'tools/dist_train.sh', *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == code and 'tools/dist_train.sh CONFIG GPUS' in ended.stdout


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


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_goes_to_the_training_processes_and_is_waited_for(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, 'wait')
    end = time.monotonic() + 60
    while not (tmp_path / 'on').exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75


def test_ctrl_c_reaches_torchrun_neither(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole process group of the script."""
    process = start(tmp_path, 'wait')
    end = time.monotonic() + 60
    while not (tmp_path / 'on').exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 75
