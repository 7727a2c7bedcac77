"""The resolved recipes of detection against the published values (RECIPES.md)."""

from functools import cache
from typing import NamedTuple

import pytest
from helpers import ROOT
from helpers.layer_decay import assert_same, optimizer_of, published, rates_of
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from mae_mm.engine.runner import load_config
from mae_mm.models.vit import ARCHS, last_of_quarters
from mae_mm.registry import MODELS

CONFIGS = ROOT / 'configs'


class Values(NamedTuple):
    """What a recipe fixes."""

    arch: str
    layer_decay: float
    drop_path: float
    iterations: int = 184375
    drops: tuple[int, int] = (163889, 177546)


B, L = Values('base', 0.7, 0.1), Values('large', 0.8, 0.4)
H = Values('huge', 0.9, 0.5, 138281, (122916, 133159))  # 75 of 100 epochs
VITDET = dict(vitdet_b_coco=B, vitdet_l_coco=L, vitdet_h_coco=H)
FOUR_TAPS = dict(mask_rcnn_vit_b_coco=B, mask_rcnn_vit_l_coco=L)
RECIPES = {**VITDET, **FOUR_TAPS}


@cache
def recipe(name: str) -> Config:
    return load_config(str(ROOT / 'detection' / f'{name}.py'))


def step(pipeline: list[ConfigDict], kind: str) -> ConfigDict:
    return next(transform for transform in pipeline if transform.type == kind)


@pytest.mark.parametrize('name', RECIPES)
def test_optimization(name):
    cfg, want = recipe(name), RECIPES[name]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.1)
    assert tuple(optimizer.betas) == (0.9, 0.999)
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.constructor == 'mae_mm.LayerDecayOptimWrapperConstructor'
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=want.layer_decay)
    assert cfg.auto_scale_lr == dict(base_batch_size=64, enable=True)
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', want.iterations)
    assert 'max_epochs' not in cfg.train_cfg
    warmup, drops = cfg.param_scheduler
    assert (warmup.type, warmup.end, warmup.by_epoch, warmup.start_factor) == ('LinearLR', 250, False, 1e-3)
    assert (drops.type, drops.by_epoch, drops.gamma) == ('MultiStepLR', False, 0.1)
    assert tuple(drops.milestones) == want.drops
    assert cfg.default_hooks.checkpoint.by_epoch is False and cfg.log_processor.by_epoch is False


@pytest.mark.parametrize('name', RECIPES)
def test_backbone(name):
    want, backbone = RECIPES[name], recipe(name).model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('mae_mm.ViT', want.arch, want.drop_path)
    assert (backbone.img_size, backbone.patch_size, backbone.out_type) == (1024, 16, 'featmap')
    assert (backbone.window_size, backbone.rel_pos, backbone.bf16) == (14, True, True)
    depth = ARCHS[want.arch]['depth']
    ends = sorted(last_of_quarters(depth))  # published: 2, 5, 8, 11 of B; 5, 11, 17, 23 of L; 7, 15, 23, 31 of H
    assert list(backbone.out_indices) == (ends if name in FOUR_TAPS else ends[-1:])
    assert 'init_cfg' not in backbone  # --pretrained


@pytest.mark.parametrize('name', FOUR_TAPS)
def test_the_papers_adapter(name):
    model, width = recipe(name).model, ARCHS[RECIPES[name].arch]['embed_dim']
    pyramid, fpn = model.neck
    assert pyramid == dict(type='mae_mm.FourTapPyramid', embed_dim=width)
    assert (fpn.type, list(fpn.in_channels), fpn.out_channels, fpn.num_outs) == ('FPN', [width] * 4, 256, 5)
    assert model.roi_head.bbox_head.type == 'Shared2FCBBoxHead' and 'num_convs' not in model.rpn_head


@pytest.mark.parametrize('name', VITDET)
def test_vitdet_neck_and_heads(name):
    model = recipe(name).model
    assert (model.neck.type, model.neck.embed_dim) == ('mae_mm.SimplePyramid', ARCHS[RECIPES[name].arch]['embed_dim'])
    assert model.rpn_head.num_convs == 2
    head, norm = model.roi_head.bbox_head, dict(type='mae_mm.LayerNorm2d', eps=1e-6)
    assert (head.type, head.norm_cfg, head.fc_out_channels) == ('Shared4Conv1FCBBoxHead', norm, 1024)
    assert model.roi_head.mask_head.norm_cfg == norm and model.roi_head.mask_head.num_convs == 4


@pytest.mark.parametrize('name', RECIPES)
def test_large_scale_jitter(name):
    cfg = recipe(name)
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline
    jitter, crop = step(train, 'RandomResize'), step(train, 'RandomCrop')
    assert (tuple(jitter.scale), tuple(jitter.ratio_range), jitter.keep_ratio) == ((1024, 1024), (0.1, 2.0), True)
    assert (crop.crop_type, tuple(crop.crop_size), crop.allow_negative_crop) == ('absolute_range', (1024, 1024), True)
    assert step(train, 'RandomFlip').prob == 0.5
    assert (tuple(step(test, 'Resize').scale), step(test, 'Resize').keep_ratio) == ((1024, 1024), True)
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.pad_size_divisor, preprocessor.pad_mask) == (1024, True)
    assert cfg.test_dataloader.dataset.pipeline == test


@pytest.mark.parametrize('name', RECIPES)
def test_data_and_metric(name):
    cfg = recipe(name)
    for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.ann_file) == ('CocoDataset', f'annotations/instances_{split}2017.json')
    assert cfg.val_evaluator.metric == ['bbox', 'segm'] and cfg.val_evaluator == cfg.test_evaluator
    batch = {'base': 2, 'large': 1, 'huge': 1}[RECIPES[name].arch]
    assert cfg.train_dataloader.batch_size == batch


@pytest.mark.parametrize('name', ['vitdet_b_coco', 'mask_rcnn_vit_b_coco'])
def test_rates_of_every_parameter_of_the_detector(name):
    """The recipe's model, in width and depth of a test, against the rule written down independently."""
    model = small_model(name, depth=4)
    actual = rates_of(model, optimizer_of(model, layer_decay_rate=0.7))
    expected = published(model, 'backbone.', 4, 0.7)
    for key, (lr, _) in expected.items():
        if '.rel_pos' in key:
            expected[key] = lr, 0
    assert_same(actual, expected)
    assert actual['backbone.blocks.0.attn.rel_pos_h'] == (pytest.approx(1e-3 * 0.7**4), 0)
    assert actual['backbone.patch_embed.proj.weight'] == (pytest.approx(1e-3 * 0.7**5), 0.05)
    assert actual['rpn_head.rpn_cls.weight'] == (1e-3, 0.05) and actual['rpn_head.rpn_cls.bias'] == (1e-3, 0)
    tops = [key for key, (lr, _) in actual.items() if lr == 1e-3]
    assert {key.split('.')[0] for key in tops} == {'neck', 'rpn_head', 'roi_head'}


def small_model(name: str, depth: int) -> nn.Module:
    """The detector of a recipe with a ViT of width 32 for 64 px."""
    model = recipe(name).model.copy()
    model.backbone = {**model.backbone, 'img_size': 64, 'arch': dict(embed_dim=32, depth=depth, num_heads=2)}
    model.backbone['out_indices'] = range(depth) if name in FOUR_TAPS else (depth - 1, )
    if name in FOUR_TAPS:
        model.neck = [{**model.neck[0], 'embed_dim': 32}, {**model.neck[1], 'in_channels': [32] * 4}]
    else:
        model.neck = {**model.neck, 'embed_dim': 32}
    init_default_scope('mmdet')
    return MODELS.build(model)


def test_parent_and_leaves_are_short():
    for path in (ROOT / 'detection').glob('*.py'):
        lines = len(path.read_text().splitlines())
        assert lines <= (90 if path.stem == 'mask_rcnn_vit_b_coco' else 25), path
