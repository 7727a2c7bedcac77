import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.tools import run_tool
from mmengine.config import Config

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.transfer import ablation
from mae_mm.transfer import jobs as job_runner
from mae_mm.transfer.ablation import ablate

pytestmark = pytest.mark.integration

TABLES = {
    'mask_ratio': """
title, source, axis = 'Ratio', 'Fig. 5', 'ratio'
rows = {'1': dict(title='One', finetune=84.9, linear=73.5, options={'model.a': 1}),
        '3': dict(title='Three', linear=54.6, options={'model.a': 3})}
""",
    'second': """
source = 'Table 1a'
rows = dict(
    same=dict(title='The default', finetune=84.9, options={'model.b': 1}),
    bad=dict(title='A bad one', options={'model.b': 99}),
    token=dict(title='Tokens', options={'model.target': dict(type='mae_mm.TokenTarget')}),
    pca=dict(title='PCA', options={'model.target': dict(type='mae_mm.PCATarget')}))
"""}
ROWS = ['1', '3', 'same', 'bad']


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A function that ablates two tiny tables with stand-ins for trainings; returns summaries and what was made."""
    monkeypatch.chdir(tmp_path)
    hooks = 'default_hooks = dict()\nrandomness = dict(seed=9)\ntrain_dataloader = val_dataloader = dict()\n'
    (tmp_path / 'base.py').write_text(f'model = dict(a=1, b=1)\ntrain_cfg = dict(max_epochs=4)\n{hooks}'
                                      "transfers = dict.fromkeys(('finetune', 'linear', 'scratch'), 'transfer.py')\n")
    (tmp_path / 'transfer.py').write_text(f'train_cfg = dict(max_epochs=2)\n{hooks}')
    for name, text in TABLES.items():
        (tmp_path / f'{name}.py').write_text(text)
    made = []

    def make_jobs(jobs: dict, make: Callable, workers: int, record: Callable) -> None:
        for stage, job in jobs.items():
            made.append((stage.row, stage.protocol, stage.seed))
            assert job.pretrained == (
                str(job.folder.parent / 'pretrain') if stage.protocol and stage.row != 'scratch' else None)
            if job.cfg.get('model', {}).get('b') == 99 or (stage.row, stage.protocol, stage.seed) == run.failing:
                record(stage, dict(error='RuntimeError: diverged'))
                continue
            base = {None: 0.5, 'finetune': 70.0, 'linear': 40.0}[stage.protocol]
            record(stage, dict(result=dict(metrics={name: base + stage.seed for name in job.metrics}, seconds=1.0)))

    monkeypatch.setattr(job_runner, 'make_jobs', make_jobs)

    def run(only: list[str] = ROWS, **options: object) -> tuple[dict, list]:
        made.clear()
        tables = [Path(f'{name}.py') for name in TABLES]
        return ablate(tables, Path('out'), 'base.py', only=only, **options), list(made)

    run.made, run.failing = made, None
    return run


def test_rows_share_work_and_complete_runs_are_not_repeated(world, tmp_path):
    summaries, made = world(seeds=2)
    pretrained = [run for run in made if run[1] is None]
    assert sorted(pretrained) == [(row, None, seed) for row in ('mask_ratio/1', 'mask_ratio/3', 'second/bad')
                                  for seed in (0, 1)]  # second/same is mask_ratio/1
    assert sorted(run for run in made if run[1] == 'linear') == [
        (row, 'linear', seed) for row in ('mask_ratio/1', 'mask_ratio/3', 'scratch') for seed in (0, 1)]
    assert ('scratch', 'finetune', 0) in made
    rows = {row['name']: row for table in summaries.values() for row in table['rows']}
    assert rows['same']['finetune'] == rows['1']['finetune'] == {0: 70.0, 1: 71.0} and rows['bad']['linear'] == {}
    assert summaries['second']['failed'] == {
        f'second/bad pre-training seed{seed}': 'RuntimeError: diverged' for seed in (0, 1)}
    assert summaries['mask_ratio']['failed'] == {}

    again, made = world(seeds=2)
    assert made == [('second/bad', None, 0), ('second/bad', None, 1)]  # what failed is tried again, nothing else
    assert again == summaries
    more = [run for run in world(seeds=3)[1] if run[0] != 'second/bad']
    assert len(more) == 8 and {seed for _, _, seed in more} == {2}  # two rows: three each, and two from scratch
    next((tmp_path / 'out/runs').glob('*_seed0/linear/result.json')).unlink()
    assert [run[1:] for run in world(seeds=2)[1] if run[0] != 'second/bad'] == [('linear', 0)]


def test_table_csv_and_plot(world, tmp_path):
    world(seeds=2)
    text = (tmp_path / 'out/mask_ratio/table.md').read_text()
    assert '| One | 70.5 ± 0.7 | 40.5 ± 0.7 | 84.9 | 73.5 | Fig. 5 |' in text
    assert '| Three | 70.5 ± 0.7 | 40.5 ± 0.7 | – | 54.6 | Fig. 5 |' in text
    assert '| no pre-training | 70.5 ± 0.7 | 40.5 ± 0.7 | – | – |  |' in text and '![plot](plot.png)' in text
    assert '| row | fine-tuning, this run | linear probing, this run | fine-tuning, `paper` |' in text
    assert (tmp_path / 'out/mask_ratio/plot.png').stat().st_size > 5000
    assert not (tmp_path / 'out/second/plot.png').exists()
    assert 'Failed: second/bad pre-training seed0: RuntimeError: diverged' in (
        tmp_path / 'out/second/table.md').read_text()
    with (tmp_path / 'out/mask_ratio/table.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == dict(row='One', column='finetune', seed='0', this_run='70.0000', paper='84.9', source='Fig. 5')
    assert len(lines) == 2 * 3 * 2
    assert json.loads((tmp_path / 'out/second/results.json').read_text())['recipes']['base'] == 'base.py'
    assert 'Changed' not in text
    world(seeds=1, options={'train_cfg.max_epochs': 3})
    text = (tmp_path / 'out/mask_ratio/table.md').read_text()
    assert 'percent, one seed.' in text and 'Changed for the pre-training: `train_cfg.max_epochs=3`.' in text


def test_rows_without_a_number_are_left_off_the_plot(world, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(ablation, 'draw_plot', lambda path, panels, *args, **kwargs: drawn.extend(panels))
    (tmp_path / 'mask_ratio.py').write_text(TABLES['mask_ratio'].replace("'3'", "'mine'"))
    world(seeds=1, only=['1', 'mine'])
    assert [panel.points for panel in drawn] == [{1.0: [70.0]}, {1.0: [40.0]}]


def test_tokens_need_a_tokenizer(world, tmp_path):
    summaries, made = world(seeds=1, only=['token', '1'])
    assert [run[0] for run in made if run[1] is None] == ['mask_ratio/1'] and not summaries['second']['failed']
    assert 'Not run: Tokens: it needs --tokenizer FILE.' in (tmp_path / 'out/second/table.md').read_text()
    with pytest.raises(FileNotFoundError, match=r'dalle\.pth'):
        world(seeds=1, only=['token'], tokenizer='dalle.pth')
    for content, made in (('a', True), ('a', False), ('b', True)):  # other weights are another run
        (tmp_path / 'dalle.pth').write_text(content)
        assert (('second/token', None, 0) in world(seeds=1, only=['token'], tokenizer='dalle.pth')[1]) == made


def test_components_are_fitted_before_the_first_run(world, monkeypatch):
    """Too few images for so many components are reported at once, not after a week."""
    def fail(cfg: Config) -> None:
        raise ValueError('too few')

    monkeypatch.setattr('mae_mm.models.pca.fit_to_images', fail)
    with pytest.raises(ValueError, match='second/pca: too few'):
        world(seeds=1, only=['pca', 'same'])
    assert world.made == []


def test_mistakes_in_transfers_show_before_the_pretraining(world):
    with pytest.raises(ValueError, match='--transfer-options: '):
        world(transfer_options={'train_cfg.max_epochs.deep': 1})
    late = [dict(type='CosineAnnealingLR', begin=5)]
    with pytest.raises(ValueError, match=r'max_epochs=2 ends before .*: --transfer-options param_scheduler'):
        world(transfer_options={'param_scheduler': late})
    with pytest.raises(ValueError, match=r'max_epochs=4 ends before .*: --cfg-options param_scheduler'):
        world(options={'param_scheduler': late})
    with pytest.raises(ValueError, match=r'1 pre-trains an encoder of patch_size=8, transfer\.py has None'):
        world(options={'model.backbone.patch_size': 8})
    assert world.made == []


def test_seeds_keep_their_numbers_where_one_failed(world, tmp_path):
    world.failing = ('mask_ratio/1', 'linear', 0)
    world(seeds=2)
    with (tmp_path / 'out/mask_ratio/table.csv').open() as file:
        lines = [(line['column'], line['seed']) for line in csv.DictReader(file) if line['row'] == 'One']
    assert lines == [
        ('finetune', '0'), ('finetune', '1'), ('linear', '1'), ('held_out_loss', '0'), ('held_out_loss', '1')]
    assert '| One | 70.5 ± 0.7 | 41.0 (n=1) |' in (tmp_path / 'out/mask_ratio/table.md').read_text()


def test_rows_that_only_one_protocol_transfers(world, tmp_path):
    (tmp_path / 'base.py').write_text((tmp_path / 'base.py').read_text() + "transfers = dict(linear='transfer.py')\n")
    _, made = world(seeds=1, only=['1'])
    assert made == [('mask_ratio/1', None, 0), ('mask_ratio/1', 'linear', 0)]
    assert '| One | – | 40.0 | 84.9 | 73.5 |' in (tmp_path / 'out/mask_ratio/table.md').read_text()


# --- the tool


def test_one_row_as_a_config(tmp_path, monkeypatch, capsys):
    """The file is complete: another machine needs nothing of the table."""
    monkeypatch.chdir(ROOT)
    file = tmp_path / 'new/block_75.py'
    run_tool('ablate', 'configs/ablation/sampling.py', '--rows', 'block_75', '--write-config', file,
             '--cfg-options', 'train_cfg.max_epochs=400')
    cfg, base = Config.fromfile(file), Config.fromfile('configs/ablation/vit_l16.py')
    base.merge_from_dict({'model.mask_sampling': 'block', 'train_cfg.max_epochs': 400})
    base.pop('transfers')
    assert cfg.to_dict() == base.to_dict()
    assert capsys.readouterr().out.splitlines() == [
        f'bash tools/dist_train.sh {file} 8',
        'bash tools/dist_train.sh configs/ablation/finetune_vit_l16.py 8 --pretrained CHECKPOINT',
        'bash tools/dist_train.sh configs/linear/vit_l16_in1k.py 8 --pretrained CHECKPOINT']
    with pytest.raises(SystemExit, match='2'):
        run_tool('ablate', 'configs/ablation/sampling.py', '--write-config', file)
    assert '--write-config writes one row; name it with --rows: sampling/random_75, ' in capsys.readouterr().err


@pytest.mark.slow
def test_real_rows(tmp_path, monkeypatch, capsys):
    """Three rows of the demo, tiny, through the tool: PCA is fitted, checkpoints are found, tables are printed."""
    monkeypatch.chdir(ROOT)
    data = make_demo_data(tmp_path / 'demo', scale=0.01, say=lambda message: None)
    loaders = ('train_dataloader', 'val_dataloader')
    pretraining = [f'{loader}.dataset.data_root={data}/flat/{split}' for loader, split in
                   zip(loaders, ('train', 'val'), strict=True)]
    pretraining += ['train_dataloader.batch_size=8', 'train_cfg.max_epochs=3']
    transfer = [f'{loader}.dataset.data_root={data}/places365' for loader in loaders]
    transfer += ['train_dataloader.batch_size=12', 'train_cfg.max_epochs=3']
    run_tool('ablate', 'configs/ablation/target.py', 'configs/ablation/mask_ratio.py', '--rows', 'pixel', 'pca', '75',
             '--base', 'configs/demo/ablation.py', '--out', tmp_path / 'out', '--seeds', 1, '--workers', 2,
             '--cfg-options', *pretraining, '--transfer-options', *transfer)
    out = capsys.readouterr().out
    assert re.search(r'\| PCA, the 96 largest coefficients of patches \| \d+\.\d \| \d+\.\d \| 84\.6 \| 72\.3 \|', out)
    assert len(list((tmp_path / 'out/runs').glob('*_seed0'))) == 3  # pixel and 75 are one, PCA, from scratch
    files = list((tmp_path / 'out/runs').glob('*_seed0/pretrain/*.pth'))
    states = [torch.load(file, weights_only=False)['state_dict'] for file in files]
    assert sorted('target_generator.components' in state for state in states) == [False, True]
