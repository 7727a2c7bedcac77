"""Probes of checkpoints from end to end: tables of colours, names, mistakes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import saved
from helpers.images import class_folders
from helpers.tools import run_tool
from PIL import Image

from mae_mm.evaluation import probes
from mae_mm.transfer.probing import find_classes, make_table, probe_checkpoints, write_probes
from mae_mm.transfer.types import RANDOM


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return class_folders(tmp_path / 'data')


@pytest.fixture
def checkpoint(tmp_path: Path, make_mae: Callable) -> str:
    content = dict(state_dict=make_mae().state_dict(), meta=dict(mae_mm=dict(num_heads=2)))
    return str(saved(content, tmp_path / 'mine.pth'))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, 'MIN_STEPS', 20)


def test_one_checkpoint_under_two_names(data: Path, checkpoint: str, tmp_path: Path) -> None:
    """Every probe gives the same, from features that were computed once; a random encoder is beside them."""
    shutil.copy(checkpoint, tmp_path / 'other.pth')
    summary = probe_checkpoints(
        find_classes(str(data)), [checkpoint, str(tmp_path / 'other.pth')], tmp_path / 'cache', seeds=2,
        fractions=(0.5, 1.0))
    assert list(summary['starts']) == ['mine', 'other', RANDOM]
    assert sum(path.is_dir() for path in (tmp_path / 'cache').iterdir()) == 2
    of = {(one['start'], one['probe'], one['labels']): one for one in summary['results']}
    assert len(of) == 3 * len(probes.PROBES) * 2 == len(summary['results'])
    for name in probes.PROBES:
        for labels in (16, 32):
            mine, other = of['mine', name, labels], of['other', name, labels]
            assert mine['by_seed'] == other['by_seed'] and mine['chosen'] == other['chosen']
            assert len(mine['by_seed']) == 2 and mine['interval'][0] <= mine['mean'] <= mine['interval'][1]
    assert of['mine', 'linear_mean', 32]['mean'] == 100
    assert len(summary['differences']) == 6 and all('no difference' in one for one in summary['differences'])
    text = write_probes(tmp_path / 'out', summary)
    assert '| linear, mean token | 32 | 100.0 ± 0.0 (100.0–100.0) |' in text and 'Chance is 50.0' in text
    assert json.loads((tmp_path / 'out/results.json').read_text())['results'] == summary['results']
    assert Image.open(tmp_path / 'out/bars.png').size[0] > 500


def test_tool_reads_a_config(tmp_path: Path, checkpoint: str, data: Path, capsys: pytest.CaptureFixture) -> None:
    """Its training and validation images."""
    for name, numbers in (('a', range(30)), ('b', range(30, 40))):
        lines = (f'{"dark" if i % 2 else "light"}/{i}.png {i % 2}\n' for i in numbers)
        (tmp_path / f'{name}.txt').write_text(''.join(lines))
    dataset = "dict(_delete_=True, type='CustomDataset', data_root='{}', ann_file='{}', pipeline=[])"
    (tmp_path / 'mine.py').write_text("_base_ = '{}'\n".format(
        Path(__file__).parents[2] / 'configs/demo/classification.py') + ''.join(
        f'{side}_dataloader = dict(dataset={dataset.format(data, tmp_path / f"{name}.txt")})\n'
        for side, name in (('train', 'a'), ('val', 'b'))))
    run_tool('probe', checkpoint, '--data', tmp_path / 'mine.py', '--out', tmp_path / 'out', '--seeds', '1',
             '--cache', tmp_path / 'cache', '--probes', 'knn', 'linear_class', '--workers', '0')
    printed = capsys.readouterr().out
    assert '30 training and 10 test images (as the config has it)' in printed
    assert re.search(r'^linear, class token +random +[\d.]+ % with 30 labels$', printed, re.MULTILINE)
    assert '| linear, class token | 30 |' in printed and 'attentive' not in printed


def test_unreadable_images_are_left_out(data: Path, checkpoint: str, tmp_path: Path, capsys) -> None:
    found = find_classes(str(data))
    for sample in (found.train[0], found.test[0]):
        Path(data, sample.name).write_bytes(b'no image')
    summary = probe_checkpoints(found, [checkpoint], tmp_path / 'cache', ['knn'], seeds=1)
    assert summary['test_images'] == 7 and {one['labels'] for one in summary['results']} == {31}
    assert found.train[0].name in capsys.readouterr().err
    assert make_table(summary).count('\n| k-NN') == 1


@pytest.mark.parametrize(('fault', 'message'), [
    ('one class', 'fewer than two classes'), ('no images', 'has no labels'), ('few', '2 training images of 2 classes'),
    ('no encoder', 'resnet.pth'), ('probe', '--probes liner: must be one or more of knn'),
    ('boxes', 'one class for each'), ('lost', 'no such file'), ('out', 'File exists')])
def test_mistakes_end_with_one_message(data: Path, checkpoint: str, tmp_path: Path, capsys, fault, message) -> None:
    args = ['--out', tmp_path / 'out', '--cache', tmp_path / 'cache', '--workers', '0']
    if fault == 'one class':
        shutil.rmtree(data / 'dark')
    elif fault == 'no images':
        shutil.rmtree(data)
        data.mkdir()
    elif fault == 'few':
        for i in range(4, 40):
            next(data.glob(f'*/{i}.png')).unlink()
    elif fault == 'no encoder':
        checkpoint = str(tmp_path / 'resnet.pth')
        torch.save({'conv1.weight': torch.zeros(4, 3, 7, 7), 'fc.weight': torch.zeros(5, 4)}, checkpoint)
    elif fault == 'probe':
        args += ['--probes', 'liner']
    elif fault == 'out':
        args[1] = data / 'dark/1.png'
    elif fault == 'lost':
        checkpoint = str(tmp_path / 'lost.pth')
    elif fault == 'boxes':
        (data / 'light').rename(data / 'images')
        boxes = [dict(id=i, image_id=i, category_id=1, bbox=[1, 1, 5, 5], area=25, iscrowd=0) for i in (0, 2)]
        (data / 'all.json').write_text(json.dumps(dict(
            images=[dict(id=i, file_name=f'{i}.png', width=40, height=32) for i in (0, 2)], annotations=boxes,
            categories=[dict(id=1, name='thing')])))
    with pytest.raises(SystemExit) as stop:
        run_tool('probe', checkpoint, '--data', data, *args)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and 'Traceback' not in printed
    assert not any((tmp_path / 'out').glob('*'))
