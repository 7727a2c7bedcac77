"""Tables of ablations and their rows."""

from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT
from mmengine.config import Config, ConfigDict

from mae_mm.engine import runner as launch
from mae_mm.registry import MODELS
from mae_mm.transfer.rows import apply_row, find_transfers, read_table, read_tables

DEMO = 'configs/demo/ablation.py'
# Table 1 and the numbers that the text gives for Figures 5 and 7: fine-tuning, linear probing.
PAPER = {
    'decoder_depth': {
        '01': (84.8, 65.5), '02': (84.9, 70.0), '04': (84.9, 71.9), '08': (84.9, 73.5), '12': (84.4, 73.3)},
    'decoder_width': {
        '0128': (84.9, 69.1), '0256': (84.8, 71.3), '0512': (84.9, 73.5), '0768': (84.4, 73.1), '1024': (84.3, 73.1)},
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
DEFAULTS = dict(
    decoder='full', decoder_depth='08', decoder_width='0512', mask_token='visible', target='pixel', loss='masked',
    augmentation='crop_random', sampling='random_75', mask_ratio='75', schedule='0800')


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize('name', PAPER)
def test_rows_have_the_numbers_of_the_paper_and_change_what_they_name(name):
    parent, rows = launch.load_config('configs/ablation/vit_l16.py'), table(name).rows
    parent.pop('transfers')
    assert {row.name: (row.finetune, row.linear) for row in rows.values()} == PAPER[name]
    unchanged = []
    for row in rows.values():
        cfg = apply_row(row)
        assert cfg.model.backbone.arch == 'large' and cfg.model.norm_pix_loss == (row.name == 'pixel_norm')
        assert name not in CHANGES or CHANGES[name](cfg) == row.name
        unchanged += [row.name] if cfg.to_dict() == parent.to_dict() else []
    assert unchanged == [DEFAULTS[name]]


def test_rows_of_table_7_differ_in_the_encoder_and_the_target():
    """1600 epochs; each row names the transfers of its encoder. Only Table 3's numbers are at hand."""
    rows = table('tokens').rows
    assert {name: row.finetune for name, row in rows.items() if row.finetune or row.linear} == dict(
        b_pixel_norm=83.6, l_pixel_norm=85.9, h_pixel_norm=86.9)
    assert len(rows) == 9
    for row in rows.values():
        size, target = row.name.split('_', 1)
        cfg = apply_row(row)
        arch = dict(b='base', l='large', h='huge')[size]
        assert (cfg.model.backbone.arch, cfg.train_cfg.max_epochs) == (arch, 1600)
        assert ((cfg.model.get('target') or {}).get('type'), cfg.model.norm_pix_loss) == (
            'mae_mm.TokenTarget' if target == 'token' else None, target == 'pixel_norm')
        transfers = {key: backbone_of(path) for key, path in find_transfers(row).items()}
        assert list(transfers) == ['finetune', 'linear'] and {one.arch for one in transfers.values()} == {arch}
        rates = dict(b=0.1, l=0.2, h=0.3) if target == 'pixel_norm' else dict(b=0.1, l=0.1, h=0.2)
        assert transfers['finetune'].drop_path_rate == rates[size]


def test_scratch_as_in_the_original_vit():
    """arXiv:2010.11929, Table 3, the row of ImageNet."""
    cfg = launch.load_config('configs/ablation/scratch_vit_l16_original.py')
    assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate, cfg.model.train_cfg) == ('large', 0.0, None)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=3e-3, betas=(0.9, 0.999), weight_decay=0.3, fused=True)
    assert (cfg.optim_wrapper.clip_grad.max_norm, cfg.auto_scale_lr.base_batch_size) == (1.0, 4096)
    assert round(10_000 / (1_281_167 / 4096)) == cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin
    assert (cfg.train_cfg.max_epochs, cfg.custom_hooks, cfg.model.head.loss.type) == (300, [], 'CrossEntropyLoss')


def test_raw_pixels_are_fine_tuned_with_the_drop_path_of_the_paper():
    """Table 9: 0.1 for ViT-B and L, 0.2 for ViT-H; 0.2 and 0.3 are the release's, for normalised pixels."""
    for name, rate in (('vit_l16', 0.1), ('vit_h14', 0.2)):
        assert launch.load_config(f'configs/ablation/finetune_{name}.py').model.backbone.drop_path_rate == rate
    assert find_transfers(table('sampling').rows['grid_75']) == dict(
        finetune='configs/ablation/finetune_vit_l16.py', linear='configs/linear/vit_l16_in1k.py')


def test_rows_on_the_demo_base():
    """Only what the row names changes; sizes follow the base, epochs are in proportion to those of the row's base."""
    base = launch.load_config(DEMO)
    base.pop('transfers')

    def apply(path: str) -> Config:
        name, row = path.split('/')
        return apply_row(table(name).rows[row], DEMO)

    assert apply('sampling/random_75').to_dict() == base.to_dict() == apply('augmentation/crop_random').to_dict()
    grid = apply('sampling/grid_75')
    assert grid.model.pop('mask_sampling') == 'grid' and base.model.pop('mask_sampling') == 'random'
    assert grid.to_dict() == base.to_dict()
    assert apply('augmentation/none').train_dataloader.dataset.pipeline == [
        dict(type='mae_mm.LoadResizeCenterCrop', size=48)]
    assert apply('schedule/0400').train_cfg.max_epochs == base.train_cfg.max_epochs // 2
    assert apply('decoder_width/0128').model.neck == dict(
        type='mae_mm.MAEDecoder', embed_dim=128, depth=2, num_heads=4)
    for path in ('mask_token/with_m', 'sampling/block_50', 'target/pca', 'loss/all', 'loss/l1', 'decoder/cross'):
        MODELS.build(apply(path).model)


def test_a_table_of_ones_own(tmp_path):
    """The keys of the file hold for all rows, those of a row come first; options of the command line come last."""
    (tmp_path / 'mine.py').write_text(
        f"title, source, base = 'Mine', 'Table 9', {DEMO!r}\n"
        "rows = {'1': dict(title='One', options={'model.mask_ratio': 0.5, 'train_cfg.max_epochs': 60}),\n"
        "        'b': dict(title='B', options={}, source='here', transfers=dict(linear='configs/demo/ablation.py'))}\n")
    mine = read_table(tmp_path / 'mine.py')
    assert (mine.name, mine.title, [row.source for row in mine.rows.values()]) == ('mine', 'Mine', ['Table 9', 'here'])
    cfg = apply_row(mine.rows['1'], options={'model.mask_ratio': 0.25})
    assert (cfg.model.mask_ratio, cfg.model.backbone.arch.embed_dim, cfg.train_cfg.max_epochs) == (0.25, 128, 60)
    assert apply_row(mine.rows['1'], 'configs/mae_pretrain.py').train_cfg.max_epochs == 1600
    assert list(find_transfers(mine.rows['1'])) == ['finetune', 'linear', 'scratch']
    assert find_transfers(mine.rows['b']) == dict(linear='configs/demo/ablation.py')
    assert 'scratch' in find_transfers(mine.rows['b'], DEMO), "another base's own transfers"


@pytest.mark.parametrize('text, message', [
    ('title = 1', r"mine\.py is not a valid table.* 'rows'"), ('rows = ', r'mine\.py .* SyntaxError'),
    ("rows = {'a': dict(title='A')}", r"mine\.py .* argument: 'options'"),
    ("rows = {'a': dict(titel='A', options={})}", r"mine\.py .* 'titel'")])
def test_files_of_another_form_are_refused(tmp_path, text, message):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / 'mine.py')


def test_mistakes_in_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no table .*mask_ration\.py; .*configs/ablation'):
        read_table(Path('configs/ablation/mask_ration.py'))
    for only, message in (['76'], r'no row 76; the rows are mask_ratio/10, '), (['sampling/75'], 'no row sampling/75'):
        with pytest.raises(ValueError, match=message):
            read_tables([Path('configs/ablation/mask_ratio.py')], only)
    with pytest.raises(ValueError, match='two tables have the same name'):
        read_tables([Path('configs/ablation/mask_ratio.py')] * 2)
    row = table('loss').rows['all']
    row.options['model.loss_on.deep'] = 1
    with pytest.raises(ValueError, match='loss/all: --cfg-options'):
        apply_row(row)


def test_a_base_names_its_transfers(tmp_path):
    """So does a base of one's own that inherits from it."""
    row = table('loss').rows['all']
    (tmp_path / 'mine.py').write_text(f'_base_ = {str(ROOT / DEMO)!r}\n')
    demo = find_transfers(row, str(tmp_path / 'mine.py'))
    assert demo == find_transfers(row, DEMO) and 'scratch' in demo
    with pytest.raises(ValueError, match=r'mae_pretrain\.py must name .*finetune='):
        find_transfers(row, 'configs/mae_pretrain.py')
    (tmp_path / 'mine.py').write_text("transfers = dict(finetun='a.py')\n")
    with pytest.raises(ValueError, match=r'mine\.py must name .*finetun.*a\.py'):
        find_transfers(row, str(tmp_path / 'mine.py'))


@cache
def backbone_of(path: str) -> ConfigDict:
    return launch.load_config(path).model.backbone


def table(name: str) -> object:
    return read_table(Path(f'configs/ablation/{name}.py'))
