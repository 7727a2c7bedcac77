"""Sizes in pipelines are those that the model is configured for."""

import pytest
from helpers import ROOT
from helpers.tools import DEMO

from mae_mm.datasets.configs import datasets_of
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_bands, check_size


def check(options: dict, config: str = DEMO, loader: str = 'train_dataloader') -> None:
    cfg = launch.load_config(str(ROOT / config), options)
    for where, dataset in datasets_of(cfg, loader):
        check_size(cfg, dataset, where)


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader', 'test_dataloader'])
def test_another_size_than_the_models_is_refused(loader: str) -> None:
    with pytest.raises(ValueError, match=(
            rf'{loader}\.dataset\.pipeline\.0\.size=48 differs from model\.backbone\.img_size=64: --cfg-options '
            rf'{loader}\.dataset\.pipeline\.0\.size=64 or model\.backbone\.img_size=48')):
        check({'model.backbone.img_size': 64}, loader=loader)
    check({'model.backbone.img_size': 64, f'{loader}.dataset.pipeline.0.size': 64}, loader=loader)


def test_bands_are_read_in_the_order_of_the_model() -> None:
    names = ['blue', 'green', 'nir']
    cfg = launch.load_config(str(ROOT / DEMO), {'model.backbone.in_chans': names})
    (where, dataset), = datasets_of(cfg, 'train_dataloader')
    for bands in (None, 3, [1, 2, 3], names):
        dataset.pipeline[0].update(dtype='keep', bands=bands)
        check_bands(cfg, dataset, where)
    dataset.pipeline[0].bands = names[::-1]
    with pytest.raises(ValueError, match=r"pipeline\.0\.bands=\['nir', 'green', 'blue'\] differs from model\.backbone"):
        check_bands(cfg, dataset, where)
    for bands in (4, [1, 2], names[:2]):
        dataset.pipeline[0].bands = bands
        with pytest.raises(ValueError, match=r'pipeline\.0\.bands=.* differs from model\.backbone\.in_chans='):
            check_bands(cfg, dataset, where)


def test_rectangles_and_other_loaders() -> None:
    with pytest.raises(ValueError, match=r'size=48 differs from model\.backbone\.img_size=\[32,48\]'):
        check({'model.backbone.img_size': [32, 48]})
    check({'model.backbone.img_size': [32, 48], 'train_dataloader.dataset.pipeline.0.size': [32, 48]})
    check({}, 'configs/masked_conv/pretrain_r50.py')
    check({}, 'configs/classification/vit_b16_in1k.py')
