"""The resolved recipes of segmentation against the published values (RECIPES.md)."""

from functools import cache
from typing import NamedTuple

import pytest
from helpers import ROOT
from mmengine.config import Config, ConfigDict

from mae_mm.engine.runner import load_config

CONFIGS = ROOT / 'configs'


class Values(NamedTuple):
    """What a recipe fixes."""

    arch: str
    width: int
    taps: tuple
    layer_decay: float = 0.65
    drop_path: float = 0.1
    lr: float = 1e-4
    weight_decay: float = 0.05
    rel_pos: bool = True
    iterations: int = 160_000


B = Values('base', 768, (3, 5, 7, 11))
L = Values('large', 1024, (7, 11, 15, 23), layer_decay=0.75, drop_path=0.2)
FROZEN = B._replace(drop_path=0.0, rel_pos=False, iterations=40_000)
UPERNET = {
    'upernet_vit_b_ade20k': B, 'upernet_vit_b_ade20k_ms': B, 'upernet_vit_l_ade20k': L, 'upernet_vit_l_ade20k_ms': L,
    'upernet_vit_b_ade20k_frozen': FROZEN}
LINEAR = {'linear_vit_b_ade20k': FROZEN._replace(taps=(-1, ), lr=1e-3, weight_decay=0.0)}


@cache
def recipe(name: str) -> Config:
    return load_config(str(ROOT / f'segmentation/{name}.py'))


def segmentor(cfg: Config) -> ConfigDict:
    return cfg.model.module if cfg.model.type == 'SegTTAModel' else cfg.model


def step(pipeline: list[ConfigDict], kind: str) -> ConfigDict:
    found = [transform for transform in pipeline if transform.type == kind]
    assert len(found) == 1, (kind, [transform.type for transform in pipeline])
    return found[0]


def test_every_recipe_has_its_values_here():
    assert {path.stem for path in (ROOT / 'segmentation').glob('*.py')} == set(UPERNET) | set(LINEAR)


@pytest.mark.parametrize('name', [*UPERNET, *LINEAR])
def test_schedule_and_backbone(name):
    cfg, want = recipe(name), {**UPERNET, **LINEAR}[name]
    backbone, optimizer, schedule = segmentor(cfg).backbone, cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (backbone.type, backbone.arch, backbone.patch_size) == ('mae_mm.ViT', want.arch, 16)
    assert (backbone.out_type, backbone.img_size, backbone.get('window_size', 0)) == ('featmap', 512, 0)
    assert (tuple(backbone.out_indices), backbone.drop_path_rate) == (want.taps, want.drop_path)
    assert backbone.rel_pos == want.rel_pos
    assert backbone.get('tuned_blocks') == (None if want.rel_pos else 0)
    assert segmentor(cfg).get('pretrained') is None and 'init_cfg' not in backbone
    assert (optimizer.type, tuple(optimizer.betas), optimizer.fused) == ('AdamW', (0.9, 0.999), True)
    assert (optimizer.lr, optimizer.weight_decay) == (want.lr, want.weight_decay)
    assert cfg.optim_wrapper.type == 'mae_mm.AutocastOptimWrapper'
    assert cfg.optim_wrapper.constructor == 'mae_mm.LayerDecayOptimWrapperConstructor'
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=want.layer_decay)
    assert cfg.auto_scale_lr == dict(base_batch_size=16, enable=True)
    assert cfg.train_dataloader.batch_size == 2  # on 8 GPUs the published 16
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', want.iterations)
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    warmup, poly = schedule
    assert (warmup.type, warmup.start_factor, warmup.end) == ('LinearLR', 1e-6, 1500)
    assert (poly.type, poly.power, poly.eta_min, poly.begin, 'end' in poly) == ('PolyLR', 1.0, 0.0, 1500, False)
    assert not warmup.by_epoch and not poly.by_epoch and not cfg.log_processor.by_epoch


@pytest.mark.parametrize('name', UPERNET)
def test_upernet(name):
    model, width = segmentor(recipe(name)), UPERNET[name].width
    assert model.neck == dict(type='mae_mm.FourTapPyramid', embed_dim=width)
    head, auxiliary = model.decode_head, model.auxiliary_head
    assert (head.type, list(head.in_channels), head.channels) == ('UPerHead', [width] * 4, width)
    assert (tuple(head.pool_scales), head.num_classes, head.loss_decode.loss_weight) == ((1, 2, 3, 6), 150, 1.0)
    assert (auxiliary.type, auxiliary.in_channels, auxiliary.in_index) == ('FCNHead', width, 2)
    assert (auxiliary.num_classes, auxiliary.loss_decode.loss_weight) == (150, 0.4)


@pytest.mark.parametrize('name', LINEAR)
def test_linear_probing(name):
    model = segmentor(recipe(name))
    assert model.neck == dict(type='mae_mm.BatchNormMaps', embed_dim=768)
    assert (model.decode_head.type, model.decode_head.num_convs, model.decode_head.concat_input) == (
        'FCNHead', 0, False)
    assert model.decode_head.dropout_ratio == 0 and model.get('auxiliary_head') is None


@pytest.mark.parametrize('name', [*UPERNET, *LINEAR])
def test_data(name):
    cfg = recipe(name)
    for loader, folder in ((cfg.train_dataloader, 'training'), (cfg.val_dataloader, 'validation'),
                           (cfg.test_dataloader, 'validation')):
        dataset = loader.dataset
        assert (dataset.type, dataset.data_root) == ('ADE20KDataset', 'data/ade/ADEChallengeData2016')
        assert dataset.data_prefix == dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}')
    train, val = cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline
    resize = step(train, 'RandomResize')
    assert (tuple(resize.scale), tuple(resize.ratio_range), resize.keep_ratio) == ((2048, 512), (0.5, 2.0), True)
    crop = step(train, 'RandomCrop')
    assert (tuple(crop.crop_size), crop.cat_max_ratio, step(train, 'RandomFlip').prob) == ((512, 512), 0.75, 0.5)
    assert [transform.type for transform in train][-2:] == ['PhotoMetricDistortion', 'PackSegInputs']
    assert tuple(step(val, 'Resize').scale) == (2048, 512) and step(val, 'Resize').keep_ratio
    assert [transform.type for transform in val].index('Resize') < [t.type for t in val].index('LoadAnnotations')
    # Said in one place, so that data of one's own can say otherwise.
    assert 'reduce_zero_label' not in step(train, 'LoadAnnotations') | step(val, 'LoadAnnotations')
    preprocessor = segmentor(cfg).data_preprocessor
    assert (tuple(preprocessor.size), preprocessor.bgr_to_rgb, preprocessor.seg_pad_val) == ((512, 512), True, 255)
    assert preprocessor.mean == [123.675, 116.28, 103.53] and preprocessor.test_cfg.size_divisor == 16
    assert list(cfg.val_evaluator.iou_metrics) == list(cfg.test_evaluator.iou_metrics) == ['mIoU']
    test = segmentor(cfg).test_cfg
    assert (test.mode, tuple(test.crop_size), tuple(test.stride)) == ('slide', (512, 512), (341, 341))


@pytest.mark.parametrize('name', ['upernet_vit_b_ade20k_ms', 'upernet_vit_l_ade20k_ms'])
def test_multi_scale(name):
    """Six scales of the single-scale test size and two flips; the model inside is that of the single-scale recipe."""
    cfg = recipe(name)
    assert segmentor(cfg) == recipe(name.removesuffix('_ms')).model
    resizes, flips, *_ = step(cfg.test_dataloader.dataset.pipeline, 'TestTimeAug').transforms
    assert [tuple(resize.scale) for resize in resizes] == [
        (1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
    assert [flip.prob for flip in flips] == [0, 1] and all(resize.keep_ratio for resize in resizes)


@pytest.mark.parametrize('name', [*UPERNET, *LINEAR])
def test_batch_norm_is_synchronised_on_several_gpus_alone(name):
    """Plain BN everywhere, which mmengine turns into SyncBN when `sync_bn` is there and processes are several."""
    cfg = recipe(name)
    assert cfg.sync_bn == 'torch'
    assert 'SyncBN' not in str(cfg.model)
    if name in UPERNET:
        assert segmentor(cfg).decode_head.norm_cfg.type == segmentor(cfg).auxiliary_head.norm_cfg.type == 'BN'


def test_demo_budgets_are_equal():
    mae, scratch = (load_config(str(ROOT / f'demo/segmentation{kind}.py')) for kind in ('', '_scratch'))
    assert mae.optim_wrapper.paramwise_cfg.layer_decay_rate < 1 == scratch.optim_wrapper.paramwise_cfg.layer_decay_rate
    scratch.optim_wrapper.paramwise_cfg = mae.optim_wrapper.paramwise_cfg
    assert mae.to_dict() == scratch.to_dict()


def test_parent_and_leaves_are_short():
    for path in (ROOT / 'segmentation').glob('*.py'):
        lines = len(path.read_text().splitlines())
        assert lines <= (90 if path.stem == 'upernet_vit_b_ade20k' else 25), path
