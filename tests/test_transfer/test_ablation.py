import csv
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.engine import runner as launch
from mae_mm.registry import MODELS
from mae_mm.transfer import ablation, comparison
from mae_mm.transfer.ablation import Recipes, Stage, ablate, apply_row, find_recipes, read_row, read_rows

DEMO = 'configs/demo/ablation.py'
TABLES = sorted(path for path in (ROOT / 'configs/ablation').iterdir() if path.is_dir())
PAPER = {  # Table 1 and the numbers that the text gives for Figures 5 and 7: fine-tuning, linear probing
    'decoder_depth': {
        '01': (84.8, 65.5), '02': (84.9, 70.0), '04': (84.9, 71.9), '08': (84.9, 73.5), '12': (84.4, 73.3)},
    'decoder_width': {
        '0128': (84.9, 69.1), '0256': (84.8, 71.3), '0512': (84.9, 73.5), '0768': (84.4, 73.1), '1024': (None, None)},
    'decoder': dict(full=(84.9, 73.5), partial=(None, None), cross=(None, None)),
    'mask_token': dict(with_m=(84.2, 59.6), visible=(84.9, 73.5)),
    'target': dict(pixel=(84.9, 73.5), pixel_norm=(85.4, 73.9), pca=(84.6, 72.3), token=(85.3, 71.6)),
    'loss': dict(masked=(84.9, 73.5), all=(84.4, None), l1=(None, None)),
    'augmentation': dict(
        none=(84.0, 65.7), crop_fixed=(84.7, 73.1), crop_random=(84.9, 73.5), crop_jitter=(84.3, 71.9)),
    'sampling': dict(random_75=(84.9, 73.5), block_50=(83.9, 72.3), block_75=(82.8, 63.9), grid_75=(84.0, 66.0)),
    'mask_ratio': {str(ratio): {10: (None, 54.6), 75: (84.9, 73.5)}.get(ratio, (None, None))
                   for ratio in (10, 20, 30, 40, 50, 60, 70, 75, 80, 90)},
    'schedule': {f'{epochs:04}': (84.9, 73.5) if epochs == 800 else (None, None)
                 for epochs in (100, 200, 400, 800, 1600)},
}
CHANGES = {  # what a row's name stands for, in the resolved config
    'decoder_depth': lambda cfg: f'{cfg.model.neck.depth:02}',
    'decoder': lambda cfg: {'MAE': 'full', 'Partial': 'partial', 'Cross': 'cross'}[cfg.model.neck.type[7:-7]],
    'decoder_width': lambda cfg: f'{cfg.model.neck.embed_dim:04}',
    'mask_ratio': lambda cfg: f'{100 * cfg.model.mask_ratio:.0f}',
    'schedule': lambda cfg: f'{cfg.train_cfg.max_epochs:04}',
    'sampling': lambda cfg: f'{cfg.model.mask_sampling}_{100 * cfg.model.mask_ratio:.0f}',
    'mask_token': lambda cfg: 'with_m' if cfg.model.mask_token else 'visible',
}


# --- the rows


def test_rows_have_the_papers_numbers_and_change_what_they_say():
    assert {table.name for table in TABLES} == set(PAPER)
    defaults, parent = {}, launch.load_config(str(ROOT / 'configs/ablation/vit_l16.py'))
    for table in TABLES:
        rows = read_rows([table])[table.name]
        numbers = {row.name: (row.paper.get('finetune'), row.paper.get('linear')) for row in rows}
        assert numbers == PAPER[table.name]
        for row in rows:
            cfg = launch.load_config(str(row.file))
            assert cfg.model.backbone.arch == 'large' and cfg.model.norm_pix_loss == (row.name == 'pixel_norm')
            if table.name in CHANGES:
                assert CHANGES[table.name](cfg) == row.name
            if cfg.pretty_text == parent.pretty_text:
                defaults[table.name] = row.name
            assert len(row.file.read_text().splitlines()) <= 25
    assert defaults == dict(
        decoder='full', decoder_depth='08', decoder_width='0512', mask_token='visible', target='pixel', loss='masked',
        augmentation='crop_random', sampling='random_75', mask_ratio='75', schedule='0800')


def test_rows_on_the_demo_base(tmp_path, monkeypatch):
    """Only what the row says changes; sizes follow the base, epochs are relative to the paper's 800."""
    monkeypatch.chdir(ROOT)
    base = launch.load_config(DEMO)
    base.pop('transfers')

    def apply(name: str) -> Config:
        return apply_row(read_row(Path(f'configs/ablation/{name}.py')), DEMO, tmp_path, {})

    assert apply('sampling/random_75').pretty_text == base.pretty_text == apply('mask_ratio/75').pretty_text
    assert apply('augmentation/crop_random').pretty_text == base.pretty_text
    grid = apply('sampling/grid_75')
    assert grid.model.pop('mask_sampling') == 'grid' and base.model.pop('mask_sampling') == 'random'
    assert grid.pretty_text == base.pretty_text
    assert apply('augmentation/none').train_dataloader.dataset.pipeline == [
        dict(type='mae_mm.LoadResizeCenterCrop', size=48)]
    assert apply('schedule/0400').train_cfg.max_epochs == base.train_cfg.max_epochs // 2
    assert apply('decoder_width/0128').model.neck == dict(
        type='mae_mm.MAEDecoder', embed_dim=128, depth=2, num_heads=4)
    for name in ('mask_token/with_m', 'sampling/block_50', 'target/pca', 'loss/all', 'loss/l1', 'decoder/cross'):
        MODELS.build(apply(name).model)


def test_a_base_says_how_its_encoder_is_transferred(tmp_path, monkeypatch):
    """So does a base of one's own that inherits from it; given configs win, and have no other side."""
    monkeypatch.chdir(ROOT)
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = {str(ROOT / DEMO)!r}\n')
    demo = find_recipes(str(mine))
    assert demo[1:] == find_recipes(DEMO)[1:] and demo.scratch and demo.base == str(mine)
    assert find_recipes().base is None and not find_recipes().scratch
    for recipes in (demo, find_recipes()):
        for path in filter(None, recipes[1:]):
            launch.load_config(path)
    other = 'configs/demo/classification.py'
    assert find_recipes(DEMO, finetune=other) == Recipes(DEMO, other, demo.linear)
    with pytest.raises(FileNotFoundError, match=r'no config file configs/demo/ablatoin\.py; did you mean'):
        find_recipes('configs/demo/ablatoin.py')
    with pytest.raises(ValueError, match=r'pretrain\.py does not say .* give --linear CONFIG, or write transfers ='):
        find_recipes('configs/mae_pretrain.py', finetune=other)


@pytest.mark.parametrize('only, message', [
    (['76'], r'no row 76; there are mask_ratio/10, '), (['sampling/75'], 'no row sampling/75')])
def test_unknown_rows_are_refused(only, message):
    with pytest.raises(ValueError, match=message):
        read_rows([ROOT / 'configs/ablation/mask_ratio'], only)


def test_folder_without_rows_and_header_without_title_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match='has no rows; there are augmentation, decoder, '):
        read_rows([tmp_path])
    with pytest.raises(ValueError, match=r'75\.py is a row; .*: configs/ablation/mask_ratio --rows 75$'):
        read_rows([Path('configs/ablation/mask_ratio/75.py')])
    (tmp_path / 'row.py').write_text('"""Just a config."""\n')
    with pytest.raises(ValueError, match='does not begin with'):
        read_rows([tmp_path])
    (tmp_path / 'row.py').write_text('"""A row: 1 fine-tuning (Table 1a)."""\n')
    assert read_row(tmp_path / 'row.py').paper == {}, 'only what is tagged is a number of the paper'
    with pytest.raises(ValueError, match=r'exactly one `_base_ = …` of one file, .* this has 0'):
        apply_row(read_row(tmp_path / 'row.py'), DEMO, tmp_path, {})


def test_base_of_a_row(tmp_path, monkeypatch):
    """In any form that mmengine takes; a row based on a row would lose that one's changes."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / 'tables/mine'
    folder.mkdir(parents=True)
    file = folder / 'row.py'

    def apply(text: str) -> Config:
        file.write_text(f'"""Mine, not of max_epochs: a remark (`ours`)."""\n{text}\nmodel = dict(mask_ratio=0.5)\n')
        return apply_row(read_row(file), DEMO, tmp_path / 'out', {})

    for base in ("'../vit_l16.py'", "['../vit_l16.py']", "[\n    '../vit_l16.py',\n]"):
        cfg = apply(f'_base_ = {base}')
        assert cfg.model.mask_ratio == 0.5 and cfg.model.backbone.arch.embed_dim == 128
        assert cfg.train_cfg.max_epochs == launch.load_config(DEMO).train_cfg.max_epochs
    halved = apply("_base_ = '../vit_l16.py'\ntrain_cfg = {'max_epochs': 400}")
    assert halved.train_cfg.max_epochs * 2 == cfg.train_cfg.max_epochs
    for base, message in (("'./other.py'", 'is a row, whose changes'), ("'../sampling/grid_75.py'", 'is a row, whose'),
                          ("['../a.py', '../b.py']", 'this has 2'), ('BASE', r'row\.py cannot be read as a row'),
                          ('(', r'row\.py cannot be read as a row: SyntaxError')):
        with pytest.raises(ValueError, match=message):
            apply(f'_base_ = {base}')


@pytest.mark.parametrize('transfers', ["'a.py'", "dict(finetun='a.py')"])
def test_transfers_of_another_form_are_named(tmp_path, transfers):
    (tmp_path / 'base.py').write_text(f'transfers = {transfers}\n')
    with pytest.raises(ValueError, match=r'base\.py: transfers=.*want dict\(finetune='):
        find_recipes(str(tmp_path / 'base.py'))
    (tmp_path / 'base.py').write_text("transfers = dict(finetune='gone.py', linear='gone.py')\n")
    with pytest.raises(FileNotFoundError, match=r'transfers\.finetune of .*base\.py: no config file gone\.py'):
        find_recipes(str(tmp_path / 'base.py'))


# --- the runs, without training


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A function that ablates two tiny tables with stand-ins for trainings; returns summaries and what was made."""
    monkeypatch.chdir(tmp_path)
    hooks = 'default_hooks = dict()\nrandomness = dict(seed=9)\ntrain_dataloader = val_dataloader = dict()\n'
    (tmp_path / 'base.py').write_text(f'model = dict(a=1, b=1)\ntrain_cfg = dict(max_epochs=4)\n{hooks}'
                                      "transfers = dict.fromkeys(('finetune', 'linear', 'scratch'), 'transfer.py')\n")
    (tmp_path / 'transfer.py').write_text(f'train_cfg = dict(max_epochs=2)\n{hooks}')
    for table, name, title, change in (
            ('mask_ratio', '1', 'One: 84.9 fine-tuning, 73.5 linear probing (Fig. 5, `paper`)', 'model = dict(a=1)'),
            ('mask_ratio', '3', 'Three: 54.6 linear probing (Fig. 5, `paper`)', 'model = dict(a=3)'),
            ('second', 'same', 'The default: 84.9 fine-tuning (Table 1a, `paper`)', 'model = dict(b=1)'),
            ('second', 'bad', 'A bad one: the paper does not have it (ours)', 'model = dict(b=99)')):
        (tmp_path / table).mkdir(exist_ok=True)
        (tmp_path / table / f'{name}.py').write_text(f"\"\"\"{title}.\"\"\"\n_base_ = '../parent.py'\n{change}\n")
    made = []

    def make_runs(jobs: dict, workers: int, record: Callable) -> None:
        for stage, job in jobs.items():
            made.append((stage.row, stage.protocol, stage.seed))
            folder, future = Path(job.cfg.work_dir), Future()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch.pth'))
            assert (folder / '..' / 'pretrain').resolve() == Path(job.pretrained or folder).resolve().parent \
                or stage.protocol is None or stage.row == 'scratch'
            if job.cfg.get('model', {}).get('b') == 99 or (stage.row, stage.protocol, stage.seed) == run.failing:
                future.set_exception(RuntimeError('diverged'))
            else:
                base = {None: 0.5, 'finetune': 70.0, 'linear': 40.0}[stage.protocol]
                names = job.metrics
                future.set_result(dict(metrics={name: base + stage.seed for name in names}, seconds=1.0))
            record(stage, future)

    monkeypatch.setattr(comparison, 'make_runs', make_runs)
    recipes = find_recipes('base.py')

    def run(**options: object) -> tuple[dict, list]:
        made.clear()
        return ablate([Path('mask_ratio'), Path('second')], recipes, Path('out'), **options), list(made)

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


def test_rows_without_a_number_are_left_off_the_plot(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr('matplotlib.axes.Axes.errorbar', lambda axes, x, *args, **kwargs: drawn.append(x))
    rows = {ablation.Row('mask_ratio', name, name, 'ours', {}, Path(name)): {'finetune': {0: 50.0}, 'linear': {}}
            for name in ('75', 'mine')}
    ablation.draw_plot(tmp_path / 'plot.png', 'ratio', rows, {})
    assert drawn == [(75.0, )] and (tmp_path / 'plot.png').exists()


def test_tables_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match='two tables have the same name'):
        read_rows([tmp_path / 'a/loss', tmp_path / 'b/loss'])


def test_tokens_need_a_tokenizer(world, tmp_path):
    (tmp_path / 'second/token.py').write_text(
        '"""Tokens: 85.3 fine-tuning (Table 1d, `paper`)."""\n_base_ = \'../parent.py\'\n'
        "model = dict(target=dict(type='mae_mm.TokenTarget', weights='none.pth'))\n")
    summaries, made = world(seeds=1, only=['token', '1'])
    assert [run[0] for run in made if run[1] is None] == ['mask_ratio/1'] and not summaries['second']['failed']
    assert 'Not run: Tokens: it needs --tokenizer FILE.' in (tmp_path / 'out/second/table.md').read_text()
    with pytest.raises(FileNotFoundError, match=r'--tokenizer dalle\.pth: no such file'):
        world(seeds=1, only=['token'], tokenizer='dalle.pth')
    for content, made in (('a', True), ('a', False), ('b', True)):  # other weights are another run
        (tmp_path / 'dalle.pth').write_text(content)
        assert (('second/token', None, 0) in world(seeds=1, only=['token'], tokenizer='dalle.pth')[1]) == made


def test_a_row_that_cannot_be_prepared_costs_only_itself(world, tmp_path, monkeypatch):
    """Its data are too few for so many components, say; alone, it is the error."""
    (tmp_path / 'second/pca.py').write_text(
        '"""PCA: 84.6 fine-tuning (Table 1d, `paper`)."""\n_base_ = \'../parent.py\'\n'
        "model = dict(target=dict(type='mae_mm.PCATarget'))\n")
    error = 'too few'

    def fail(cfg: Config) -> None:
        raise ValueError(error)

    monkeypatch.setattr('mae_mm.models.pca.fit_to_images', fail)
    summaries, made = world(seeds=1, only=['pca', 'same'])
    assert summaries['second']['failed'] == {'second/pca': 'too few'} and ('second/same', 'linear', 0) in made
    assert 'Failed: second/pca: too few' in (tmp_path / 'out/second/table.md').read_text()
    with pytest.raises(ValueError, match='no row to run: second/pca: too few'):
        world(seeds=1, only=['pca'])


def test_mistakes_in_transfers_show_before_the_pretraining(world):
    with pytest.raises(ValueError, match='--transfer-options: '):
        world(transfer_options={'train_cfg.max_epochs.deep': 1})
    with pytest.raises(ValueError, match='seeds=0: want 1 or more'):
        world(seeds=0)
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


def test_stages_of_one_process_never_share_a_name(world):
    """mmengine keeps scalars and loggers by experiment name: two runs of a worker would mix."""
    stages = [Stage('a', key * 64, seed, protocol) for key in 'ab' for seed in (0, 1) for protocol in (None, 'linear')]
    cfgs = [Config(dict(default_hooks=dict())) for _ in stages]
    for cfg, stage in zip(cfgs, stages, strict=True):
        ablation._name(cfg, stage, Path('out'))
    assert len({cfg.experiment_name for cfg in cfgs}) == len({cfg.work_dir for cfg in cfgs}) == len(stages)


# --- for real


@pytest.mark.slow
def test_real_rows(tmp_path, monkeypatch, capsys):
    """Three rows of the demo, tiny, through the tool: PCA is fitted, checkpoints are found, tables are printed."""
    monkeypatch.chdir(ROOT)
    sys.path.insert(0, 'tools')
    import ablate as tool

    data = make_demo_data(tmp_path / 'demo', scale=0.01, say=lambda message: None)
    loaders = ('train_dataloader', 'val_dataloader')
    pretraining = [f'{loader}.dataset.data_root={data}/flat/{split}' for loader, split in
                   zip(loaders, ('train', 'val'), strict=True)]
    pretraining += ['train_dataloader.batch_size=8', 'train_cfg.max_epochs=3']
    transfer = [f'{loader}.dataset.data_root={data}/places365' for loader in loaders]
    transfer += ['train_dataloader.batch_size=12', 'train_cfg.max_epochs=3']
    monkeypatch.setattr(sys, 'argv', [
        'ablate.py', 'configs/ablation/target', 'configs/ablation/mask_ratio', '--rows', 'pixel', 'pca', '75', '--base',
        DEMO, '--out', str(tmp_path / 'out'), '--seeds', '1', '--workers', '2', '--cfg-options', *pretraining,
        '--transfer-options', *transfer])
    tool.main()
    out = capsys.readouterr().out
    assert re.search(r'\| PCA, the 96 largest coefficients of patches \| \d+\.\d \| \d+\.\d \| 84\.6 \| 72\.3 \|', out)
    assert len(list((tmp_path / 'out/runs').glob('*_seed0'))) == 3  # pixel and 75 are one, PCA, from scratch
    files = list((tmp_path / 'out/runs').glob('*_seed0/pretrain/*.pth'))
    states = [torch.load(file, weights_only=False)['state_dict'] for file in files]
    assert sorted('target_generator.components' in state for state in states) == [False, True]
