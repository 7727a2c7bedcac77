"""Files that would run code are named and refused, by whoever is given them, without advice to run it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.checkpoints import Call, saved
from helpers.reliability import build, save_images, tiny_config
from helpers.tools import DEMO, run, tiny

from mae_mm.engine.exits import exit_on_user_error
from mae_mm.engine.resume import checkpoints_of, choose_checkpoint, read_training_state

pytestmark = pytest.mark.integration

TOLD = 'evil.pth was not loaded: it holds posix.system'


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that makes a file when it is unpickled: never in the test, and afterwards, to show that it would."""
    victim, call = tmp_path / 'victim', Call(os.system, f'touch {tmp_path / "victim"}')
    yield saved(dict(meta=dict(epoch=1, iter=4), state_dict=dict(a=call), message_hub={}), tmp_path / 'evil.pth')
    assert not victim.exists()
    torch.load(tmp_path / 'evil.pth', weights_only=False)
    assert victim.exists()


def test_resume_and_load_from(evil: Path, tmp_path: Path) -> None:
    cfg = tiny_config(save_images(tmp_path / 'images'), tmp_path / 'run', load_from=str(evil))
    with pytest.raises(ValueError, match=TOLD) as error:
        choose_checkpoint(cfg, str(evil))
    assert 'weights_only' not in str(error.value)
    with pytest.raises(ValueError, match=TOLD):
        build(cfg)


def test_a_config_inside_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    state = dict(meta=dict(epoch=1, iter=4, config='raise SystemExit(9)'), state_dict={})
    with pytest.raises(ValueError, match='code in place of a config'):
        read_training_state(saved(state, tmp_path / 'iter_4.pth'))


def test_the_test_command(evil: Path, tmp_path: Path) -> None:
    images = save_images(tmp_path / 'images')
    result = run('tools/test.py', DEMO, str(evil), '--work-dir', str(tmp_path / 'run'), *tiny(images))
    assert result.returncode == 2, result.stderr[-2000:]
    assert TOLD in result.stderr and 'Traceback' not in result.stderr and 'weights_only' not in result.stderr


def test_what_reaches_mmengine_all_the_same_ends_with_one_message(evil: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(lambda: torch.load(evil, weights_only=True))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and 'it holds posix.system' in error and 'weights_only' not in error


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation', 'mae_pretrain'])
def test_predictions_refuse_it(task: str, evil: Path, tmp_path: Path) -> None:
    from mae_mm.visualization.predict import predict

    image = str(save_images(tmp_path / 'images', 1))
    with pytest.raises(ValueError, match=TOLD):
        predict(str(ROOT / f'configs/demo/{task}.py'), str(evil), [image], out=str(tmp_path / 'out'))


@pytest.mark.parametrize('content', [b'\xff\xfe\x00/\xff', b'a' * 5000, b''])
def test_a_last_checkpoint_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert checkpoints_of(tmp_path) == []


def test_sigusr1_before_the_first_step_is_as_sigterm(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, 'tools/train.py', DEMO, '--work-dir', str(tmp_path / 'run')], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    end = time.monotonic() + 60
    while 'torch' not in Path(f'/proc/{process.pid}/maps').read_text() and time.monotonic() < end:
        time.sleep(0.05)  # it imports: its own handlers are there, mmengine's hooks are not
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == -signal.SIGTERM
