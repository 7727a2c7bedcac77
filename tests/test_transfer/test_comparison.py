import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.transfer.comparison import Metric, Protocol, Suite, compare, outcome, table
from mae_mm.transfer.suites import SUITES


def measure(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """A run that leaves its name in a file, scores 0.25 or 0.5, and fails if the config says so."""
    if pretrained and cfg.get('default_scope') == 'broken':
        raise RuntimeError('out of luck')
    with open('made.txt', 'a') as file:
        file.write(f'{cfg.experiment_name} ')
    return {'map': 0.5 if pretrained else 0.25}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_mae: Callable) -> Callable:
    """A function that compares in `tmp_path` and returns the summary and the names of the runs that it made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'leaf.py').write_text(
        "train_cfg = dict(max_iters=30, val_interval=5)\ndefault_hooks = dict()\nrandomness = dict(seed=9)\n"
        "train_dataloader = val_dataloader = dict()\ndefault_scope = 'mmengine'\n")
    write_checkpoint(tmp_path, make_mae, 0)
    suite = Suite('Guessing', dict(
        all=Protocol('everything', 'leaf.py', 'leaf.py', measure=measure),
        part=Protocol('a part', None, 'leaf.py', {'train_cfg.max_iters': 20}, measure=measure)),
        {'map': Metric('AP', 100.0)}, 'Chance is 0.', seeds=2)

    def run(**kwargs: object) -> tuple[dict, list[str]]:
        Path('made.txt').write_text('')
        summary = compare(suite, str(tmp_path / 'mae.pth'), tmp_path / 'out', **kwargs)
        return summary, sorted(Path('made.txt').read_text().split())

    return run


def write_checkpoint(folder: Path, make_mae: Callable, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(dict(state_dict=make_mae(dict(img_size=48)).state_dict()), folder / 'mae.pth')


def test_complete_runs_are_not_repeated(runs, tmp_path, make_mae):
    """A missing result is made, a new checkpoint repeats the runs that start from it, new seeds are added."""
    summary, made = runs(workers=2)
    assert made == [f'{name}_seed{seed}' for name in ('all_mae', 'all_random', 'part_mae') for seed in (0, 1)]
    assert summary['results'] == dict(
        all=dict(random=[{'map': 25.0}] * 2, mae=[{'map': 50.0}] * 2), part=dict(random=[], mae=[{'map': 50.0}] * 2))
    assert json.loads((tmp_path / 'out/results.json').read_text()) == summary

    assert runs() == (summary, [])
    (tmp_path / 'out/all_random_seed1/result.json').unlink()  # as if stopped there
    write_checkpoint(tmp_path, make_mae, 1)
    assert runs(seeds=3)[1] == ['all_mae_seed0', 'all_mae_seed1', 'all_mae_seed2', 'all_random_seed1',
                                'all_random_seed2', 'part_mae_seed0', 'part_mae_seed1', 'part_mae_seed2']


def test_a_failed_run_does_not_stop_the_others(runs, tmp_path):
    summary, made = runs(seeds=1, options=dict(default_scope='broken'))
    assert made == ['all_random_seed0']
    assert summary['failed'] == dict.fromkeys(('all_mae_seed0', 'part_mae_seed0'), 'RuntimeError: out of luck')
    assert 'Failed: part_mae_seed0: RuntimeError: out of luck' in (tmp_path / 'out/table.md').read_text()


def hang(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """A run that tells its process and does not end."""
    Path('pid.txt').write_text(str(os.getpid()))
    time.sleep(600)


def test_checkpoints_of_another_run_are_not_resumed(runs, tmp_path, make_mae):
    """A suite that saves would resume them, find itself complete, and give the old result under the new name."""
    (tmp_path / 'out/all_mae_seed0').mkdir(parents=True)
    (tmp_path / 'out/all_mae_seed0/last_checkpoint').write_text('epoch_1.pth')
    with pytest.raises(ValueError, match=r'all_mae_seed0 holds checkpoints of a run of another config'):
        runs()
    (tmp_path / 'out/all_mae_seed0/last_checkpoint').unlink()
    assert len(runs()[1]) == 6
    (tmp_path / 'out/all_mae_seed0/last_checkpoint').write_text('epoch_1.pth')
    (tmp_path / 'out/all_mae_seed0/result.json').unlink()
    assert runs()[1] == ['all_mae_seed0'], 'its own are'
    write_checkpoint(tmp_path, make_mae, 1)
    with pytest.raises(ValueError, match=r'all_mae_seed0 holds checkpoints of .*another checkpoint'):
        runs()


@pytest.mark.parametrize('sent', [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_comparison(runs, tmp_path, sent):
    """However it ends: a worker that is left behind would train on, unseen."""
    code = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'from pathlib import Path; from test_comparison import *\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # ignored in what a shell runs in the background
        "suite = Suite('Waiting', dict(all=Protocol('all', None, 'leaf.py', measure=hang)), {'map': Metric('AP')})\n"
        "compare(suite, 'mae.pth', Path('out'))")
    process = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (tmp_path / 'pid.txt').exists() and (tmp_path / 'pid.txt').read_text()))
    process.send_signal(sent)
    process.wait(60)
    assert wait_for(lambda: not Path(f'/proc/{pid}').exists() or 'zombie' in Path(f'/proc/{pid}/status').read_text())


def wait_for(condition: Callable[[], object], seconds: float = 120) -> object:
    """The first true value of a condition."""
    end = time.time() + seconds
    while not (value := condition()):
        assert time.time() < end
        time.sleep(0.2)
    return value


def test_a_missing_checkpoint_is_refused_first(runs, tmp_path):
    (tmp_path / 'mae.pth').unlink()
    with pytest.raises(FileNotFoundError, match=r'mae\.pth'):
        runs()
    assert not (tmp_path / 'out').exists()


def test_table_by_hand():
    """Sample deviation of 20, 22, 24 is 2; one run has none to show; a side without runs has no gain."""
    suite = Suite('Guessing', dict(a=Protocol('all', 'x', 'x'), b=Protocol('part', None, 'x')), {'m': Metric('AP')})
    summary = dict(
        epochs=30, train_images=1008, val_images=504, seeds=3, checkpoint='mae.pth', failed={}, results=dict(
            a=dict(random=[{'m': value} for value in (20.0, 22.0, 24.0)], mae=[{'m': 30.0}] * 3),
            b=dict(random=[], mae=[{'m': 7.0}])))
    text = table(suite, summary)
    assert '| all | AP | 22.0 ± 2.0 | 30.0 ± 0.0 | +8.0 |\n| part | AP | – | 7.0 | – |' in text
    assert text.startswith('Guessing: 1008 training and 504 held-out images, 30 epochs,')


def test_outcome():
    done, broken = Future(), Future()
    done.set_result(dict(metrics={'map': 12.5}))
    broken.set_exception(OSError('disk full'))
    assert outcome(done, {'map': Metric('AP')}) == '12.50 AP'
    assert outcome(broken, {}) == 'failed: OSError: disk full'


@pytest.mark.slow
def test_real_training(tmp_path, monkeypatch, make_mae):
    """Fine-tuning and k-NN of a tiny encoder on 24 images of the demo's Places365 layout."""
    monkeypatch.chdir(ROOT)
    write_checkpoint(tmp_path, make_mae, 0)
    data = make_demo_data(tmp_path / 'demo', scale=0.01, say=lambda message: None)
    whole = SUITES['demo-classification']
    suite = whole._replace(protocols={name: whole.protocols[name] for name in ('finetune', 'knn')})
    options = {f'{loader}.dataset.data_root': str(data / 'places365')
               for loader in ('train_dataloader', 'val_dataloader')}
    options.update({
        'model.backbone.arch': dict(embed_dim=32, depth=2, num_heads=2), 'model.head.in_channels': 32,
        'train_dataloader.batch_size': 12, 'train_cfg.max_epochs': 1, 'param_scheduler': []})
    summary = compare(suite, str(tmp_path / 'mae.pth'), tmp_path / 'out', 1, options)
    assert (summary['train_images'], summary['val_images'], summary['epochs'], summary['failed']) == (24, 12, 1, {})
    assert {name: {start: len(values) for start, values in row.items()} for name, row in summary['results'].items()
            } == dict(finetune=dict(random=1, mae=1), knn=dict(random=1, mae=1))
    assert 'loss:' in (tmp_path / 'out/finetune_mae_seed0/log.txt').read_text()
