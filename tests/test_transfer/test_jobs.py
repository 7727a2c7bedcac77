"""Jobs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT
from helpers import jobs as helpers
from mmengine.config import Config

from mae_mm.transfer.jobs import claim, complete, outcome, read_result
from mae_mm.transfer.types import Job, Metric

pytestmark = pytest.mark.integration


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Job]:
    """Three jobs, for `helpers.jobs.make`."""
    monkeypatch.chdir(tmp_path)
    return {name: Job(name, Config(dict(work_dir=f'out/{name}', fate=name)), {'map': Metric('AP')})
            for name in ('good', 'fails', 'dies')}


def test_each_job_has_a_process_of_its_own(jobs):
    """An error, or the death of a process, is reported and leaves the others alone; complete jobs are not repeated."""
    results, errors = complete(jobs, helpers.make, 2)
    assert results['good']['metrics'] == {'map': 50.0}
    assert errors == dict(
        fails='RuntimeError: out of luck', dies='its process ended with exit code 7')
    pids = Path('made.txt').read_text().split()
    assert len(set(pids)) == 3 and str(os.getpid()) not in pids
    good = dict(good=jobs['good'])
    assert complete(good, helpers.make, 1) == (results, {}) and len(Path('made.txt').read_text().split()) == 3
    complete(dict(good=good['good']._replace(identity='another checkpoint')), helpers.make, 1)
    assert len(Path('made.txt').read_text().split()) == 4


def test_folders_of_other_jobs_are_refused(tmp_path):
    """Checkpoints of another job would be resumed and give its result under this one's name."""
    (tmp_path / 'run').mkdir()
    claim(tmp_path / 'run', 'a')
    claim(tmp_path / 'run', 'b')  # there are no checkpoints yet
    (tmp_path / 'run/last_checkpoint').write_text('epoch_1.pth')
    claim(tmp_path / 'run', 'b')
    with pytest.raises(ValueError, match=r'run holds checkpoints of a run of another config'):
        claim(tmp_path / 'run', 'c')


def test_results_are_those_of_the_key(tmp_path):
    assert read_result(tmp_path, 'a') is None
    (tmp_path / 'result.json').write_text(json.dumps(dict(key='a', seconds=1)))
    assert read_result(tmp_path, 'a') == dict(seconds=1) and read_result(tmp_path, 'b') is None
    (tmp_path / 'result.json').write_text('{"key": "a", ')
    assert read_result(tmp_path, 'a') is None


def test_outcome(jobs):
    assert outcome(dict(result=dict(metrics={'map': 12.5})), jobs['good']) == '12.50 AP'
    assert outcome(dict(error='OSError: disk full'), jobs['good']) == 'failed: OSError: disk full'


@pytest.mark.parametrize('sent', [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path, sent):
    """However it ends: a process that is left behind would train on, unseen."""
    code = (
        'import signal; from helpers.jobs import *; from mae_mm.transfer.jobs import *\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # ignored in what a shell runs in the background
        "complete({0: Job('hangs', Config(dict(work_dir='out', fate='hangs')), {})}, make, 1)")
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': path}, stderr=subprocess.DEVNULL)
    made = tmp_path / 'made.txt'
    wait_for(lambda: process.poll() is not None or (made.exists() and made.read_text()))
    pid = int(made.read_text())
    process.send_signal(sent)
    process.wait(60)
    assert wait_for(lambda: not Path(f'/proc/{pid}').exists() or 'zombie' in Path(f'/proc/{pid}/status').read_text())


@pytest.mark.parametrize('when', ['preloading', 'running'])
def test_ctrl_c_reaches_all_processes_and_prints_one_line(tmp_path, when):
    code = (
        'import signal; from helpers.jobs import *; from mae_mm.transfer.jobs import *\n'
        'from mae_mm.engine.exits import exit_on_user_error\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        "jobs = {i: Job('hangs', Config(dict(work_dir=f'out/{i}', fate='hangs')), {}) for i in range(2)}\n"
        "exit_on_user_error(lambda: complete(jobs, make, 2), 'the same command continues')")
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    process = subprocess.Popen(
        [sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': path}, stderr=subprocess.PIPE,
        text=True, start_new_session=True)
    made, own = tmp_path / 'made.txt', Path(f'/proc/{process.pid}/task/{process.pid}/children')
    if when == 'running':
        wait_for(lambda: process.poll() is not None or (made.exists() and len(made.read_text().split()) == 2))
    else:
        wait_for(lambda: process.poll() is not None or any(
            'libtorch' in Path(f'/proc/{child}/maps').read_text() for child in own.read_text().split()))
        assert not made.exists()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=120)[1].splitlines() == ['stopped; the same command continues']
    assert process.returncode == 130


def wait_for(condition: Callable[[], object], seconds: float = 120) -> object:
    """The first true value of a condition."""
    end = time.time() + seconds
    while not (value := condition()):
        assert time.time() < end
        time.sleep(0.2)
    return value
