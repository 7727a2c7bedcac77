"""What meters are worth: runs of an ablation read from their folders, correlations and regrets that are known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import DECODER, ENCODER
from mmpretrain.structures import DataSample
from PIL import Image

from mae_mm.benchmark import meters
from mae_mm.benchmark.meter_table import Meter, columns_of, describe, draw_scatter, meters_of, regret, worth
from mae_mm.benchmark.meters import find_runs, linear_accuracy, study
from mae_mm.evaluation.knn import Features
from mae_mm.evaluation.meters import rankme
from mae_mm.evaluation.metrics import ReconstructionMetric

MODEL = f"""
default_scope = 'mmpretrain'
custom_imports = dict(imports=['a_module_of_the_training'], allow_failed_imports=False)
model = dict(type='mae_mm.MAE', mask_ratio=RATIO, backbone=dict(type='mae_mm.ViT', **{ENCODER}),
             neck=dict(type='mae_mm.MAEDecoder', **{DECODER}))
val_dataloader = dict(dataset=dict(type='mae_mm.ImageFolder', data_root='IMAGES', test_mode=True, pipeline=[
    dict(type='mae_mm.LoadResizeCenterCrop', size=32)]))
"""


def finish(folder: Path, **metrics: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'result.json').write_text(json.dumps(dict(key='0', seconds=1.0, metrics={
        name.replace('_', '/', 1): value for name, value in metrics.items()})))


@pytest.fixture
def out(tmp_path: Path, make_mae: Callable) -> Path:
    """An output folder: configuration aa with two seeds, bb not fine-tuned yet, cc not complete; and `images`."""
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f'images/{i:02}.png')
    for i, (name, ratio) in enumerate((('aa_seed0', 0.75), ('aa_seed1', 0.75), ('bb_seed0', 0.5))):
        folder = tmp_path / 'out/runs' / name / 'pretrain'
        finish(folder, recon_loss=0.8 - 0.1 * i, recon_margin=10.0 + i)
        torch.manual_seed(i)
        torch.save(dict(state_dict=make_mae().state_dict()), folder / 'epoch_3.pth')
        (folder / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')  # the folder was moved
        (folder / 'base.py').write_text(MODEL.replace('RATIO', str(ratio)).replace('IMAGES', f'{tmp_path}/images'))
    for seed in (0, 1):
        finish(tmp_path / f'out/runs/aa_seed{seed}/finetune', accuracy_top1=40.0 + seed)
    (tmp_path / 'out/runs/cc_seed0/pretrain').mkdir(parents=True)
    (tmp_path / 'out/runs/scratch_seed0/finetune').mkdir(parents=True)
    (tmp_path / 'out/table').mkdir()
    (tmp_path / 'out/table/results.json').write_text(json.dumps(dict(rows=[dict(run='aa', title='The first')])))
    return tmp_path / 'out'


def test_runs_are_found(out: Path) -> None:
    runs, unfinished = find_runs([out, out])
    assert [(run.name, run.title, run.finetune) for run in runs] == [
        ('aa_seed0', 'The first', 40.0), ('aa_seed1', 'The first', 41.0), ('bb_seed0', 'bb', None)]
    assert unfinished == 1 and runs[0].own == dict(loss=0.8, margin=10.0)
    assert runs[0].checkpoint == out / 'runs/aa_seed0/pretrain/epoch_3.pth'


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='runs: no such folder'):
        find_runs([tmp_path])
    (tmp_path / 'runs').mkdir()
    with pytest.raises(ValueError, match='no complete pre-training in'):
        find_runs([tmp_path])


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of labelled images: 24 of two colours, twice; and the configs that were asked for."""
    asked = []
    samples = [DataSample().set_gt_label(i % 2) for i in range(24)]
    imgs = torch.stack([torch.full((3, 32, 32), 40 + 150 * (i % 2) + i, dtype=torch.uint8) for i in range(24)])
    monkeypatch.setattr(meters, 'labelled_batches', lambda config: asked.append(config) or [
        [dict(inputs=imgs, data_samples=samples)]] * 2)
    return asked


def test_everything_is_measured_once(
    out: Path, tmp_path: Path, labelled: list[str], make_mae: Callable, capsys: pytest.CaptureFixture,
) -> None:
    text = study([out], tmp_path / 'meters', 'labelled.py', draws=20)
    rows = json.loads((tmp_path / 'meters/meters.json').read_text())
    assert set(rows) == {'aa_seed0', 'aa_seed1', 'bb_seed0'} and labelled == ['labelled.py']
    assert rows['bb_seed0']['masks'] == 'random 0.5' and rows['bb_seed0']['target'] == 'normalised pixels l2'
    assert 'linear probing: top-1 of 3 pre-trainings' in text and 'fine-tuning: top-1 of 2 pre-trainings' in text
    assert 'Not complete, and left out: 1' in text and (tmp_path / 'meters/table.md').read_text() == text
    assert Image.open(tmp_path / 'meters/scatter.png').format == 'PNG'

    model = make_mae().eval()  # the same weights, and 75 % masked, though it was trained with 50
    model.load_state_dict(torch.load(out / 'runs/bb_seed0/pretrain/epoch_3.pth')['state_dict'])
    imgs = torch.stack([torch.from_numpy(np.array(Image.open(tmp_path / f'images/{i:02}.png'))).permute(2, 0, 1)
                        for i in range(40)])
    inputs = model.data_preprocessor(dict(inputs=imgs))['inputs']
    metric = ReconstructionMetric()
    with torch.no_grad():
        metric.process({}, model.predict(inputs))
        features = model.backbone(inputs)[0][:, 1:].mean(1)
    expected = metric.compute_metrics(metric.results)
    assert rows['bb_seed0']['common_loss'] == pytest.approx(expected['loss'], rel=1e-4)
    assert rows['bb_seed0']['common_margin'] == pytest.approx(expected['margin'], rel=1e-3)
    assert rows['bb_seed0']['rankme'] == pytest.approx(rankme(features), rel=1e-3)
    assert rows['bb_seed0']['knn'] == 100 or rows['bb_seed0']['linear'] == 100

    finish(out / 'runs/bb_seed0/finetune', accuracy_top1=43.0)
    rows['aa_seed0']['rankme'] = 7.0  # measured before: read, not repeated
    (tmp_path / 'meters/meters.json').write_text(json.dumps(rows))
    assert 'fine-tuning: top-1 of 3 pre-trainings' in study([out], tmp_path / 'meters', 'labelled.py', draws=20)
    assert json.loads((tmp_path / 'meters/meters.json').read_text()) == rows and labelled == ['labelled.py']


def test_linear_accuracy_of_separable_and_of_random_labels() -> None:
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(300, 8, generator=rng), torch.randint(0, 4, (300, ), generator=rng)
    separable = x + 9 * torch.eye(8)[labels]
    parts = [Features(one[half], one[half], labels[half]) for one in (separable, x)
             for half in (slice(0, 200), slice(200, 300))]
    assert linear_accuracy(*parts[:2]) == 100
    assert linear_accuracy(*parts[2:]) < 45


def test_a_perfect_meter_a_reversed_and_a_blind_one() -> None:
    accuracies, keys = np.arange(40.0), np.arange(40).astype(str)
    perfect = worth(accuracies ** 3, accuracies, keys, draws=200)
    assert (perfect.tau, perfect.low, perfect.regret, perfect.regret_of_few) == pytest.approx((1, 1, 0, 0))
    reversed_ = worth(-accuracies, accuracies, keys, draws=200)
    assert reversed_.tau == -1 and reversed_.regret == 39
    assert worth(-accuracies, accuracies, keys, draws=200, either=True).regret == 0
    blind = worth(np.random.default_rng(3).random(40), accuracies, keys, draws=200)
    assert blind.low < 0 < blind.high and blind.regret_of_few > 5


def test_seeds_of_a_configuration_are_not_independent() -> None:
    """Eight equal seeds of each configuration tell no more than one: the interval stays as wide."""
    rng = np.random.default_rng(0)
    values, accuracies = rng.random(12), np.arange(12.0)
    once = worth(values, accuracies, np.arange(12), draws=400)
    often = worth(*(np.repeat(one, 8) for one in (values, accuracies, np.arange(12))), draws=400)
    assert often.runs == 96 and often.configurations == 12 and often.tau == pytest.approx(once.tau)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    independent = worth(np.repeat(values, 8), np.repeat(accuracies, 8), np.arange(96), draws=400)
    assert independent.high - independent.low < 0.6 * (once.high - once.low)


def test_few_configurations_have_no_interval() -> None:
    assert np.isnan(worth(np.arange(9.0), np.arange(9.0), np.arange(9) // 3).tau)


def test_regret_by_hand() -> None:
    assert regret(np.array([1, 3, 2]), np.array([50, 40, 60])) == 20
    assert regret(np.array([1, 3, 3]), np.array([50, 40, 60])) == 10  # of two that look the same


def row(**values: object) -> dict:
    return dict(dict(key='a', target='raw', masks='random 0.75', finetune=1.0, x=1.0), **values)


def test_columns_are_oriented_and_compared_within_groups() -> None:
    rows = [row(x=0.5), row(x=3.0, key='b'), row(x=1.25, target='other'), row(finetune=np.nan)]
    values, accuracies, keys = columns_of(rows, Meter('', 'x', 'near 1'), 'finetune')
    assert values.tolist() == [-0.5, -2, -0.25] and accuracies.tolist() == [1, 1, 1]
    values, _, keys = columns_of(rows, Meter('', 'x', 'low', 'target+masks'), 'finetune')
    assert values.tolist() == [-0.5, -3] and keys.tolist() == ['a', 'b']


def table(num: int = 20) -> list[dict]:
    """Rows whose loss is accuracy reversed, and whose RankMe is noise."""
    rng, rows = np.random.default_rng(0), []
    for i in range(num):
        rows.append(dict(
            key=str(i), seed=0, title=str(i), target=f'target {i % 2}', masks='random 0.75', loss=-i, margin=i,
            common_loss=-i, common_margin=i, rankme=rng.random(), alpha_req=1.0 + i, attention_distance=-i,
            attention_distance_0=-i, attention_distance_1=0.5, knn=i, linear=i, finetune=i))
    return rows


def test_table_tells_useful_meters_from_useless_ones(tmp_path: Path) -> None:
    lines = describe(table(), draws=25).split('linear probing:')[0].splitlines()
    cells = {line.split(' | ')[0].lstrip('| '): line.rstrip(' |').split(' | ')[1:] for line in lines if ' | ' in line}
    assert cells['held-out loss, 75 % masked at random'] == ['low', '20', '+1.00', '+1.00 … +1.00', '0.0', '0.0']
    assert cells['the same, of one target'][1:3] == ['10', '+1.00']
    assert 'the same, of one target and one masking' in cells
    assert cells['attention distance, block 0'] == ['?', '20', '-1.00', '-1.00 … -1.00', '0.0', '0.0']
    low, high = map(float, cells['RankMe'][3].split(' … '))
    assert low < 0 < high and cells['α-ReQ: α'][2] == '-1.00'
    assert cells['(choosing at random)'][-2] == '9.5' and 4 < float(cells['(choosing at random)'][-1]) < 10
    assert cells['attention distance, block 1'][2:] == ['–'] * 4  # constant: no rank
    draw_scatter(table(), tmp_path / 'scatter.png')
    assert 20_000 < (tmp_path / 'scatter.png').stat().st_size < 200_000


def test_groups_of_all_runs_are_left_out() -> None:
    alike = [dict(row, target='raw') for row in table()]
    assert 'the same' not in describe(alike, draws=5)


def test_linear_accuracy_is_no_meter_of_itself() -> None:
    assert 'linear accuracy' in [meter.title for meter in meters_of(table())]
    assert '| linear accuracy' not in describe(table(), draws=5).split('linear probing:')[1]
