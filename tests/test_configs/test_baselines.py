"""The other sides of the transfers: equal recipes from random or supervised weights (RECIPES.md)."""

from pathlib import Path

import pytest
from helpers import ROOT

from mae_mm.engine.runner import load_config

CONFIGS = ROOT / 'configs'
FAMILIES = dict(mask_rcnn='detection', vitdet='detection', upernet='segmentation')
SUPERVISED = {  # Tables 4 and 5
    'mask_rcnn_vit_b_coco': '47.9/42.9 box/mask AP', 'mask_rcnn_vit_l_coco': '49.3/43.9 box/mask AP',
    'upernet_vit_b_ade20k': '47.4 mIoU', 'upernet_vit_l_ade20k': '49.9 mIoU'}
PATHS = sorted((ROOT / 'baselines').glob('*.py'))
SMALL = [path for path in PATHS if '_b_' in path.stem]  # the others differ in nothing but their base


def test_every_table_has_its_other_sides():
    names = {path.stem for path in PATHS}
    assert {f'{name}_{side}' for name in SUPERVISED for side in ('scratch', 'supervised')} <= names
    assert names - {f'{name}_{side}' for name in SUPERVISED for side in ('scratch', 'supervised')} == {
        f'vitdet_{size}_coco_scratch' for size in 'blh'}


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_only_the_start_differs(path: Path):
    name, side = path.stem.rsplit('_', 1)
    own = load_config(str(path))
    family = next(folder for start, folder in FAMILIES.items() if name.startswith(start))
    mae = load_config(str(ROOT / family / f'{name}.py'))
    header = path.read_text().split('"""')[1]
    if side == 'scratch':
        assert own.optim_wrapper.paramwise_cfg.pop('layer_decay_rate') == 1.0
        assert mae.optim_wrapper.paramwise_cfg.pop('layer_decay_rate') < 1
    else:
        assert SUPERVISED[name] in header and '--pretrained' in header
    assert own.pretty_text == mae.pretty_text and len(path.read_text().splitlines()) <= 25
