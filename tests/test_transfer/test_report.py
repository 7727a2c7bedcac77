"""The report: one page with everything in it, and the figures as json."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_mm.transfer.report import read_losses, write_report
from mae_mm.transfer.runs import last_scalars
from mae_mm.transfer.types import Metric, Protocol, Suite

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='mae_mm.MAE', mask_ratio=0.75,
    backbone=dict(type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8),
    neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
    data_preprocessor=dict(type='mae_mm.ImagePreprocessor'))
val_dataloader = dict(dataset=dict(
    type='mae_mm.ImageFolder', data_root=ROOT, pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=32)]))
"""


@pytest.fixture
def folder(tmp_path: Path, make_mae) -> Path:
    """A pre-training's folder with checkpoint, config and images, and the folder of a suite's runs beside it."""
    (tmp_path / 'images').mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 50, 3), 60 * i, np.uint8)).save(tmp_path / f'images/{i}.jpg')
    (tmp_path / 'pretrain.py').write_text(CONFIG.replace('ROOT', repr(str(tmp_path / 'images'))))
    torch.save(dict(state_dict=make_mae().state_dict()), tmp_path / 'mae.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'mae.pth'))
    runs = ('seg_mae_seed0', (3.0, 2.0)), ('seg_random_seed0', (4.0, 3.5)), ('seg_mae_seed2', (9.0, 9.0)), (
        'old_mae_seed0', (9.0, 9.0))  # the last two are of an earlier suite
    for run, losses in runs:
        scalars = tmp_path / 'out/demo' / run / '2026/vis_data/scalars.json'
        scalars.parent.mkdir(parents=True)
        lines = [json.dumps(dict(loss=loss, step=10 * (i + 1))) for i, loss in enumerate(losses)]
        scalars.write_text('\n'.join([*lines, json.dumps({'mIoU': 12.0, 'step': 20})]))
        (tmp_path / 'out/demo' / run / 'segmentation.py').write_text(f'# config of {run} <b>\n')
    pictures = tmp_path / 'out/demo/seg_mae_seed0/pictures'
    pictures.mkdir()
    Image.fromarray(np.zeros((2000, 10, 3), np.uint8)).save(pictures / '0.png')
    return tmp_path


def test_page(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr('matplotlib.axes.Axes.plot', lambda axes, x, y, **kwargs: drawn.append(list(y)))
    suite = Suite('Painting', dict(seg=Protocol('UperNet', 'a', 'b')), {'mIoU': Metric('mIoU')})
    summary = dict(
        checkpoint_sha256='ab' * 32, seeds=2, caption='Painting <it>',
        rows=[['', 'from MAE'], ['UperNet', '32.0 ± 2.8']])
    failed = {'demo-detection': 'no data at <coco>'}
    page = folder / 'out/report.html'
    write_report(page, str(folder / 'mae.pth'), dict(demo=suite), dict(demo=summary), failed)
    text = page.read_text()
    assert '<td>32.0 ± 2.8</td>' in text and '<th>from MAE</th>' in text and 'Painting &lt;it&gt;' in text
    assert 'no data at &lt;coco&gt;' in text and '# config of seg_mae_seed0 &lt;b&gt;' in text  # escaped
    assert 'config of old' not in text and drawn == [[4.0, 3.5], [3.0, 2.0]], 'runs of the table alone'
    assert text.count('src="data:image/png;base64,') == 2  # reconstructions, one prediction
    assert text.count('src="data:image/svg+xml;base64,') == 1 and 'src="http' not in text and '<script' not in text
    assert f'<td>{version("torch")}</td>' in text
    results = json.loads((folder / 'out/results.json').read_text())
    assert (results['suites']['demo'], results['failed']) == (summary, failed)


def test_python_beside_a_checkpoint_is_not_run_unless_it_is_a_config(folder):
    (folder / 'last_checkpoint').unlink()
    (folder / 'pretrain.py').write_text('raise SystemExit("was run")')
    page = folder / 'out/report.html'
    write_report(page, str(folder / 'mae.pth'), {}, {}, {})
    assert 'What it reconstructs' not in page.read_text()


def test_losses_and_scalars(folder):
    run = folder / 'out/demo/seg_mae_seed0'
    assert read_losses(run) == [(10, 3.0), (20, 2.0)]
    assert last_scalars(run) == dict(loss=2.0, step=20, mIoU=12.0)
