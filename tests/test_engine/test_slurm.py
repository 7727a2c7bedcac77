"""`tools/slurm_train.sh` with commands in the place of Slurm's that write down how they were called."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT


def run(tmp_path: Path, srun_code: int = 0, said: str = '', **env: str) -> tuple[int, str]:
    """Exit code of the script, and the calls that it made; `said` is what the run writes before it ends."""
    for name, code in dict(sbatch=0, srun=srun_code, scontrol=0).items():
        (tmp_path / name).write_text(f"""#!/bin/sh
echo "port=$MASTER_PORT {name} $*" >> {tmp_path}/calls
[ {name} = srun ] && [ -n '{said}' ] && printf '{said}\\nwhy' > "$MAE_MM_EXIT_FILE"
exit {code}
""")
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(
        ['bash', str(ROOT / 'tools/slurm_train.sh'), 'gpu', 'mae', 'configs/mae_pretrain.py', '--amp'], cwd=tmp_path,
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', **env}, timeout=60)
    return result.returncode, (tmp_path / 'calls').read_text()


def test_it_submits_itself_with_a_signal_before_the_limit(tmp_path: Path) -> None:
    code, calls = run(tmp_path, GPUS='16', GRACE='120')
    assert code == 0 and calls.startswith('port= sbatch --partition=gpu --job-name=mae --gres=gpu:8 --ntasks=16')
    assert '--requeue' in calls and '--signal=TERM@120' in calls and f'MAE_MM_ROOT={tmp_path}' in calls
    assert calls.strip().endswith('slurm_train.sh gpu mae configs/mae_pretrain.py --amp')


@pytest.mark.parametrize(('srun_code', 'said', 'code', 'requeued'), [
    (75, '75', 75, True), (143, '75', 75, True), (137, '75', 75, True),  # srun kills the tasks that end later
    (0, '', 0, False), (2, '2', 2, False), (143, '3', 3, False), (137, '', 137, False), (75, '', 75, False)])
def test_only_a_job_that_says_it_was_preempted_goes_back_into_the_queue(
    tmp_path: Path, srun_code: int, said: str, code: int, requeued: bool,
) -> None:
    (tmp_path / 'work_dirs/slurm').mkdir(parents=True)
    (tmp_path / 'work_dirs/slurm/70007.exit').write_text('75')  # of the run before it was requeued
    ended, calls = run(tmp_path, srun_code, said, SLURM_JOB_ID='70007', MAE_MM_ROOT=str(tmp_path))
    assert ended == code and ('scontrol requeue 70007' in calls) is requeued
    assert 'tools/train.py configs/mae_pretrain.py --launcher slurm --resume auto --amp' in calls


def test_a_step_of_a_job_gets_its_cpus_and_a_port_of_its_own(tmp_path: Path) -> None:
    _, calls = run(tmp_path, SLURM_JOB_ID='70007', MAE_MM_ROOT=str(tmp_path), SLURM_CPUS_PER_TASK='12')
    assert 'srun --kill-on-bad-exit=1 --cpus-per-task=12 python' in calls and 'port=20007 srun' in calls
    _, calls = run(tmp_path, SLURM_JOB_ID='70007', MAE_MM_ROOT=str(tmp_path), CPUS_PER_TASK='6', MASTER_PORT='1')
    assert '--cpus-per-task=6' in calls and 'port=1 srun' in calls
