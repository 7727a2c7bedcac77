import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.transfer import comparison
from mae_mm.transfer import jobs as job_runner
from mae_mm.transfer.comparison import caption, compare, rows
from mae_mm.transfer.suites import SUITES
from mae_mm.transfer.types import Metric, Protocol, Suite


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_mae: Callable) -> Callable:
    """A function that compares in `tmp_path` and returns the summary and the names of the runs that it made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'derived.py').write_text(
        'train_cfg = dict(max_iters=30, val_interval=5)\ndefault_hooks = dict()\nrandomness = dict(seed=9)\n'
        "train_dataloader = val_dataloader = dict()\ndefault_scope = 'mmengine'\n")
    write_checkpoint(tmp_path, make_mae, 0)
    suite = Suite('Guessing', dict(
        all=Protocol('everything', 'derived.py', 'derived.py', measure=measure),
        part=Protocol('a part', None, 'derived.py', {'train_cfg.max_iters': 20}, measure=measure)),
        {'map': Metric('AP', 100.0)}, 'Chance is 0.', seeds=2)

    monkeypatch.setattr(job_runner, 'make_jobs', make_jobs)

    def run(**kwargs: object) -> tuple[dict, list[str]]:
        Path('made.txt').write_text('')
        summary = compare(suite, str(tmp_path / 'mae.pth'), tmp_path / 'out', **kwargs)
        return summary, sorted(Path('made.txt').read_text().split())

    return run


def make_jobs(jobs: dict, make: Callable, workers: int, record: Callable) -> None:
    """Make jobs in this process; tests/test_transfer/test_jobs.py has the real ones."""
    for run, job in jobs.items():
        try:
            record(run, dict(result=make(job, print)))
        except RuntimeError as error:
            record(run, dict(error=str(error)))


def measure(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """A run that leaves its name in a file, scores 0.25 or 0.5, and fails if the config says so."""
    if pretrained and cfg.get('default_scope') == 'broken':
        raise RuntimeError('out of luck')
    with open('made.txt', 'a') as file:
        file.write(f'{Path(cfg.work_dir).name} ')
    return {'map': 0.5 if pretrained else 0.25}


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
    assert '| everything | AP | 25.0 ± 0.0 | 50.0 ± 0.0 | +25.0 |' in (tmp_path / 'out/table.md').read_text()

    assert runs() == (summary, [])
    (tmp_path / 'out/all_random_seed1/result.json').unlink()  # as if stopped there
    write_checkpoint(tmp_path, make_mae, 1)
    assert runs(seeds=3)[1] == ['all_mae_seed0', 'all_mae_seed1', 'all_mae_seed2', 'all_random_seed1',
                                'all_random_seed2', 'part_mae_seed0', 'part_mae_seed1', 'part_mae_seed2']


def test_a_failed_run_does_not_stop_the_others(runs, tmp_path):
    summary, made = runs(seeds=1, options=dict(default_scope='broken'))
    assert made == ['all_random_seed0']
    assert summary['failed'] == dict.fromkeys(('all_mae_seed0', 'part_mae_seed0'), 'out of luck')
    assert 'Failed: part_mae_seed0: out of luck' in (tmp_path / 'out/table.md').read_text()


def test_a_missing_checkpoint_is_refused_first(runs, tmp_path):
    (tmp_path / 'mae.pth').unlink()
    with pytest.raises(FileNotFoundError, match=r'mae\.pth'):
        runs()
    assert not (tmp_path / 'out').exists()


def test_table_by_hand():
    """Sample deviation of 20, 22, 24 is 2; one run has none to show; a side without runs has no gain."""
    suite = Suite('Guessing', dict(a=Protocol('all', 'x', 'x'), b=Protocol('part', None, 'x')), {'m': Metric('AP')})
    summary = dict(
        epochs=30, train_images=1008, val_images=504, seeds=3, results=dict(
            a=dict(random=[{'m': value} for value in (20.0, 22.0, 24.0)], mae=[{'m': 30.0}] * 3),
            b=dict(random=[], mae=[{'m': 7.0}])))
    assert rows(suite, summary)[1:] == [
        ['all', 'AP', '22.0 ± 2.0', '30.0 ± 0.0', '+8.0'], ['part', 'AP', '–', '7.0', '–']]
    assert caption(suite, summary).startswith('Guessing: 1008 training and 504 held-out images, 30 epochs, the same')


def test_plot_has_the_best_protocol_of_each_place(tmp_path, monkeypatch):
    """The paper chose the number of epochs for each number of blocks; so does the plot."""
    drawn = []
    monkeypatch.setattr(comparison, 'draw_plot', lambda path, panels, *labels: drawn.extend(panels))
    suite = Suite('Fine-tuning', dict(
        k1=Protocol('1', None, 'a', published={'top1': 81.0}, at=1), k1_long=Protocol('1', None, 'a', at=1),
        k1_short=Protocol('1', None, 'a', at=1),
        missing=Protocol('2', None, 'a', at=2), knn=Protocol('k-NN', None, 'a')), {'top1': Metric('top-1')}, axis='k')
    results = {name: dict(mae=[{'top1': value} for value in mae]) for name, mae in dict(
        k1=[30.0, 34.0], k1_long=[33.0], k1_short=[20.0], missing=[], knn=[1.0]).items()}
    comparison.plot(suite, dict(results=results), tmp_path / 'plot.png')
    assert [(panel.points, panel.published) for panel in drawn] == [({1: [33.0]}, {1: 81.0})]


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
    assert '  loss ' in (tmp_path / 'out/finetune_mae_seed0/log.txt').read_text()
