"""`tools/slurm_train.sh` with commands in the place of Slurm's that write down how they were called."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT


def run(tmp_path: Path, srun_code: int = 0, **env: str) -> tuple[int, str]:
    """Exit code of the script, and the calls that it made."""
    for name, code in dict(sbatch=0, srun=srun_code, scontrol=0).items():
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(
        ['bash', str(ROOT / 'tools/slurm_train.sh'), 'gpu', 'mae', 'configs/mae_pretrain.py', '--amp'], cwd=tmp_path,
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', **env}, timeout=60)
    return result.returncode, (tmp_path / 'calls').read_text()


def test_it_submits_itself_with_a_signal_before_the_limit(tmp_path: Path) -> None:
    code, calls = run(tmp_path, GPUS='16', GRACE='120')
    assert code == 0 and calls.startswith('sbatch --partition=gpu --job-name=mae --gres=gpu:8 --ntasks=16')
    assert '--requeue' in calls and '--signal=TERM@120' in calls and f'MAE_MM_ROOT={tmp_path}' in calls
    assert calls.strip().endswith('slurm_train.sh gpu mae configs/mae_pretrain.py --amp')


@pytest.mark.parametrize(('code', 'requeued'), [(75, True), (0, False), (2, False), (137, False)])
def test_only_a_preempted_job_goes_back_into_the_queue(tmp_path: Path, code: int, requeued: bool) -> None:
    ended, calls = run(tmp_path, srun_code=code, SLURM_JOB_ID='7', MAE_MM_ROOT=str(tmp_path))
    assert ended == code and ('scontrol requeue 7' in calls) is requeued
    assert 'tools/train.py configs/mae_pretrain.py --launcher slurm --resume auto --amp' in calls
