"""Suites by name: groups, sizes, published numbers, configs that exist."""

import pytest
import torch

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.engine.runner import load_config
from mae_mm.paths import find_config
from mae_mm.transfer.suites import GROUPS, SUITES, find_suites


def checkpoint(width: int) -> Checkpoint:
    return Checkpoint({'patch_embed.proj.weight': torch.zeros(width, 3, 16, 16)})


def published(name: str, width: int) -> dict[str, list[float]]:
    suite = find_suites(name, checkpoint(width))[name]
    return {name: [protocol.published.get(metric) for metric in suite.metrics]
            for name, protocol in suite.protocols.items()}


def test_groups():
    assert list(find_suites('demo', checkpoint(192))) == ['demo-classification', 'demo-detection', 'demo-segmentation']
    assert list(find_suites('all', checkpoint(768))) == ['imagenet', 'coco', 'ade20k', 'inat', 'places']
    assert list(find_suites('all', checkpoint(1280))) == ['imagenet', 'coco', 'inat', 'places'], 'no UperNet with ViT-H'


def test_published_numbers():
    """RECIPES: COCO box and mask AP of Table 4 and ViTDet's, ADE20K mIoU, top-1."""
    assert published('coco', 768) == dict(vitdet=[51.6, 45.9], mask_rcnn=[50.3, 44.9])
    assert published('coco', 1024) == dict(vitdet=[55.6, 49.2], mask_rcnn=[53.3, 47.2])
    assert published('coco', 1280) == dict(vitdet=[56.7, 50.1])
    assert published('ade20k', 768) == dict(upernet=[48.1]) and published('ade20k', 1024) == dict(upernet=[53.6])
    assert published('imagenet', 768) == dict(finetune=[83.6], linear=[68.0], attentive=[75.5])
    assert published('imagenet', 1280) == dict(finetune=[86.9], linear=[76.6], attentive=[None])
    assert published('inat', 1024) == dict(inat2017=[75.7], inat2018=[80.1], inat2019=[83.4])
    assert published('places', 768) == dict(places205=[63.9], places365=[57.9])
    assert published('partial', 1024) == {'k0': [73.5], 'k0.5': [79.1], 'k1': [81.0], 'k24': [84.9],
                                          **{f'k{k}': [None] for k in (2, 4, 6, 12, 18)}}


@pytest.mark.parametrize('name', ['partial', 'demo-partial'])
def test_partial_fine_tuning_is_that_of_figure_9(name):
    protocols = list(find_suites(name, checkpoint(1024))[name].protocols.values())
    blocks = {'partial': [0.5, 1, 2, 4, 6, 12, 18], 'demo-partial': [0.5, 1, 2, 4]}[name]
    assert [load_config(one.mae, one.options).model.backbone.tuned_blocks for one in protocols[:-1]] == [0, *blocks]
    assert [one.at for one in protocols] == [0, *blocks, 24 if name == 'partial' else 6]
    assert 'tuned_blocks' not in load_config(protocols[-1].mae).model.backbone


def test_epochs_of_partial_fine_tuning():
    """The paper chose them for each number of blocks; linear probing keeps its own."""
    suite = find_suites('partial', checkpoint(1024), [50, 200])['partial']
    assert list(suite.protocols)[:4] == ['k0', 'k0.5_50e', 'k0.5_200e', 'k1_50e'] and len(suite.protocols) == 17
    long = suite.protocols['k0.5_200e']
    cfg = load_config(long.mae, long.options)
    assert (cfg.train_cfg.max_epochs, cfg.model.backbone.tuned_blocks, long.at) == (200, 0.5, 0.5)
    assert long.title == 'the last 0.5 of 24 blocks, 200 epochs'
    with pytest.raises(ValueError, match='--epochs is for --suite partial and demo-partial, got --suite coco'):
        find_suites('coco', checkpoint(768), [50])


def test_three_of_the_six_bands_are_those_that_photographs_have():
    suites = find_suites('demo-multiband', checkpoint(192))
    assert list(suites) == ['multiband-classification', 'multiband-detection', 'multiband-segmentation']
    for suite in suites.values():
        six, three = (load_config(one.mae, one.options) for one in suite.protocols.values())
        bands = dict(zip(six.model.backbone.in_chans, range(1, 7), strict=True))
        names = three.model.backbone.in_chans
        assert names == ['red', 'green', 'blue']
        for cfg, expected in ((six, list(bands)), (three, names)):
            pixels = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
            all_pixels = six.model.get('data_preprocessor') or six.data_preprocessor
            for key in ('mean', 'std'):
                assert pixels[key] == [all_pixels[key][bands[name] - 1] for name in expected]
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            assert six[loader].dataset.pipeline[0].bands == 6
            assert three[loader].dataset.pipeline[0].bands == [bands[name] for name in names]
    six = Checkpoint({'patch_embed.proj.weight': torch.zeros(192, 6, 8, 8)})
    assert all(list(suite.protocols) == ['six'] for suite in find_suites('demo-multiband', six).values())


@pytest.mark.parametrize('width', [768, 1024, 1280])
def test_configs_exist(width):
    suites = {**SUITES, **find_suites('all', checkpoint(width)), **find_suites('partial', checkpoint(1024))}
    assert len(suites) >= len(SUITES) + len(GROUPS['all'])
    for suite in suites.values():
        for protocol in suite.protocols.values():
            assert all(find_config(config) for config in (protocol.random, protocol.mae) if config), protocol


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"--suite 'koko': must be one of demo-classification, .*coco.*, demo, demo-m"):
        find_suites('koko', checkpoint(768))
    with pytest.raises(ValueError, match=r'192 wide.*--suite demo takes checkpoints'):
        find_suites('coco', checkpoint(192))
    for name, width in ('ade20k', 1280), ('partial', 768):
        with pytest.raises(ValueError, match=f'--suite {name}: no recipe for an encoder of this size'):
            find_suites(name, checkpoint(width))
