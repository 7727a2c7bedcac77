"""Two gloo processes, stopped and resumed, end with the bits of two that were not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, free_port
from helpers.reliability import save_images

pytestmark = pytest.mark.integration


def test_two_processes_stop_together_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}',
         '-m', 'helpers.gloo_resume', str(save_images(tmp_path / 'images')), str(tmp_path)],
        cwd=ROOT, text=True, capture_output=True, timeout=600, env={
            **os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})
    assert result.returncode == 0 and 'equal' in result.stdout, (result.stdout + result.stderr)[-4000:]
