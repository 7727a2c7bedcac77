"""`tools/gpu_check.py`: a fault in one check is not one in the next; the whole script runs on a CPU."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ROOT

from mae_mm.benchmark.gpu_check import FAIL, PASS, SKIP, Outcome, is_poison, run_checks
from mae_mm.benchmark.throughput import markdown

PLANTED = """
    import os, time
    from mae_mm.benchmark.gpu_check import SkipCheck

    def good(context):
        return f'{context.device}, process {os.getpid()}'

    def bad(context):
        assert not context.small, 'one line\\nand another'

    def unfit(context):
        raise SkipCheck('no operators')

    def crash(context):
        os._exit(7)

    def poison(context):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    def endless(context):
        context.emit(dict(rate=1))
        time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs planted checks by name."""
    (tmp_path / 'planted').mkdir()
    (tmp_path / 'planted' / '__init__.py').touch()
    (tmp_path / 'planted' / 'checks.py').write_text(textwrap.dedent(PLANTED))
    monkeypatch.syspath_prepend(str(tmp_path))

    def run_planted(*names: str, minutes: float = 1.0) -> list[Outcome]:
        checks = {name: (f'planted.checks:{name.strip("12")}', '') for name in names}
        return run_checks(list(names), 'cpu', True, tmp_path, minutes, checks=checks)

    return run_planted


def test_a_fault_is_reported_and_the_next_check_runs_in_the_same_process(run) -> None:
    first, bad, unfit, second = run('good1', 'bad', 'unfit', 'good2')
    assert [one.status for one in (first, bad, unfit, second)] == [PASS, FAIL, SKIP, PASS]
    assert bad.reason == 'AssertionError: one line' and 'checks.py' in bad.trace
    assert unfit.reason == 'no operators'
    assert first.reason == second.reason and first.reason.startswith('cpu, process ')


@pytest.mark.parametrize('fault', ['crash', 'poison'])
def test_a_process_that_is_lost_is_replaced(run, fault: str) -> None:
    first, lost, second = run('good1', fault, 'good2')
    assert (first.status, lost.status, second.status) == (PASS, FAIL, PASS)
    assert first.reason != second.reason
    assert ('code 7' if fault == 'crash' else 'illegal memory access') in lost.reason


def test_what_lasts_too_long_is_ended_and_keeps_its_rows(run) -> None:
    endless, late = run('endless', 'good1', minutes=11 / 60)
    assert endless.rows == [dict(rate=1)] and endless.reason.startswith('ended')
    assert late.status == SKIP and '--minutes' in late.reason


def test_out_of_memory_spoils_no_process() -> None:
    assert is_poison(RuntimeError('CUDA error: device-side assert triggered'))
    assert not is_poison(RuntimeError('CUDA out of memory. Tried to allocate 2 GiB'))


def test_rows_as_a_table_to_paste() -> None:
    row = dict(arch='large', patch=16, batch=512, mode='eager', error='', images_per_second=3000.4, low=2990, high=3010,
               memory_gib=40.04, tflops=373.5, share=0.47, peak_tflops=795, wanted=4000)
    text = markdown([row, dict(row, mode='mmpretrain', error='out of memory')])
    assert '| ViT-L/16 | 512 | eager | 3,000 (2,990–3,010) | 40.0 | 374 | 47% | 4,000 |' in text
    assert '| ViT-L/16 | 512 | mmpretrain | out of memory |' in text and '795 to 795 TFLOP/s' in text


def check(tmp_path: Path, *options: str) -> dict[str, dict]:
    command = [sys.executable, 'tools/gpu_check.py', '--device', 'cpu', '--small', '--json', str(tmp_path / 'out.json'),
               *options]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert '| check | result | s | what was found |' in done.stdout
    return {one['name']: one for one in json.loads((tmp_path / 'out.json').read_text())['outcomes']}


@pytest.mark.integration
def test_checks_of_steps_on_a_cpu(tmp_path: Path) -> None:
    outcomes = check(tmp_path, '--only', 'nan', 'agree', 'compile')
    assert {name: one['status'] for name, one in outcomes.items()} == dict(nan=PASS, agree=PASS, compile=PASS)
    assert 'float32 0e+00/0e+00' in outcomes['agree']['reason']  # the CPU agrees with itself
    assert 'MAE: 6 graphs for 8 blocks, 0 breaks' in outcomes['compile']['reason']


@pytest.mark.slow
@pytest.mark.integration
def test_everything_on_a_cpu(tmp_path: Path) -> None:
    outcomes = check(tmp_path, '--minutes', '15')
    assert {one['status'] for one in outcomes.values()} == {PASS}, outcomes
    assert [row['mode'] for row in outcomes['table']['rows']] == ['eager', 'compiled', 'mmpretrain']
