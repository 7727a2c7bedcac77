"""Suites by name: groups, sizes, the paper's numbers, configs that exist."""


import pytest
import torch
from helpers import ROOT

from mae_mm.checkpoint import Checkpoint
from mae_mm.engine.runner import load_config
from mae_mm.transfer.suites import GROUPS, SUITES, find_suites


def checkpoint(width: int) -> Checkpoint:
    return Checkpoint({'patch_embed.proj.weight': torch.zeros(width, 3, 16, 16)})


def published(name: str, width: int) -> dict[str, list[float]]:
    suite = find_suites(name, checkpoint(width))[name]
    return {name: list(protocol.published.values()) for name, protocol in suite.protocols.items()}


def test_groups():
    assert list(find_suites('demo', checkpoint(192))) == ['demo-classification', 'demo-detection', 'demo-segmentation']
    assert list(find_suites('all', checkpoint(768))) == ['imagenet', 'coco', 'ade20k', 'inat', 'places']
    assert list(find_suites('all', checkpoint(1280))) == ['imagenet', 'coco', 'inat', 'places'], 'no UperNet with ViT-H'


def test_published_numbers():
    """RECIPES: COCO box and mask AP of Table 4 and ViTDet's, ADE20K mIoU, top-1."""
    assert published('coco', 768) == dict(vitdet=[51.6, 45.9], mask_rcnn=[50.3, 44.9])
    assert published('coco', 1024) == dict(vitdet=[55.5, 49.2], mask_rcnn=[53.3, 47.2])
    assert published('coco', 1280) == dict(vitdet=[56.7, 50.2])
    assert published('ade20k', 768) == dict(upernet=[48.1]) and published('ade20k', 1024) == dict(upernet=[53.6])
    assert published('imagenet', 1280) == dict(finetune=[86.9], linear=[76.6])
    assert published('inat', 1024) == dict(inat2017=[75.7], inat2018=[80.1], inat2019=[83.4])
    assert published('places', 768) == dict(places205=[63.9], places365=[57.9])


def test_partial_fine_tuning_is_that_of_figure_9():
    suite = find_suites('partial', checkpoint(1024))['partial']
    assert [protocol.at for protocol in suite.protocols.values()] == [0, 0.5, 1, 2, 4, 6, 12, 18, 24]
    assert published('partial', 1024)['k0'] == [73.5] and published('partial', 1024)['k24'] == [84.9]
    for name in ('partial', 'demo-partial'):
        suite = find_suites(name, checkpoint(1024))[name]
        for protocol in list(suite.protocols.values())[1:-1]:
            assert load_config(protocol.mae, protocol.options).model.backbone.tuned_blocks == protocol.at
        assert 'tuned_blocks' not in load_config(list(suite.protocols.values())[-1].mae).model.backbone


@pytest.mark.parametrize('width', [768, 1024, 1280])
def test_configs_exist(width):
    suites = dict(SUITES)
    for name in GROUPS['all']:
        if (name, width) != ('ade20k', 1280):
            suites.update(find_suites(name, checkpoint(width)))
    suites.update(find_suites('partial', checkpoint(1024)))
    for suite in suites.values():
        for protocol in suite.protocols.values():
            assert all((ROOT / config).is_file() for config in (protocol.random, protocol.mae) if config), protocol


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"--suite 'koko' is none of demo-classification, .*coco.*, demo, all"):
        find_suites('koko', checkpoint(768))
    with pytest.raises(ValueError, match=r'192 wide.*--suite demo takes checkpoints'):
        find_suites('coco', checkpoint(192))
    with pytest.raises(ValueError, match='no UperNet with ViT-H'):
        find_suites('ade20k', checkpoint(1280))
    with pytest.raises(ValueError, match='--suite partial: the recipes are for ViT-L'):
        find_suites('partial', checkpoint(768))
