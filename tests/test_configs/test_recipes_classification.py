"""The resolved recipes of classification against the published values (RECIPES.md)."""

from functools import cache
from typing import NamedTuple

import pytest
from helpers import ROOT
from mmengine.config import Config, ConfigDict

from mae_mm.engine.runner import load_config

CONFIGS = ROOT / 'configs'


class Values(NamedTuple):
    """What a recipe fixes; lr is the base lr, for 256 images."""

    arch: str
    base_lr: float
    layer_decay: float
    drop_path: float
    epochs: int
    warmup: int = 5
    batch: int = 1024
    weight_decay: float = 0.05
    betas: tuple = (0.9, 0.999)
    patch_size: int = 16
    img_size: int = 224
    num_classes: int = 1000
    floor: float = 1e-6  # lr at the end, for the layers on top


B = Values('base', 5e-4, 0.65, 0.1, 100)
L = Values('large', 1e-3, 0.75, 0.2, 50)
H = Values('huge', 1e-3, 0.75, 0.3, 50, patch_size=14)
H448 = H._replace(img_size=448)
SCRATCH = Values('base', 1e-4, 1.0, 0.1, 300, 20, 4096, 0.3, (0.9, 0.95), floor=0)
SIZES = {'b16{}': B, 'l16{}': L, 'h14{}': H, 'h14{}_448px': H448}
FINETUNE = {
    **{f'classification/vit_{size.format("_in1k")}': values for size, values in SIZES.items()},
    'classification/vit_b16_in1k_scratch': SCRATCH,
    'classification/vit_l16_in1k_scratch': SCRATCH._replace(arch='large', drop_path=0.2, epochs=200),
    'classification/vit_h14_in1k_scratch': SCRATCH._replace(arch='huge', drop_path=0.2, epochs=200, patch_size=14),
    **{f'classification/{folder}/vit_{size.format(f"_{data}")}': values._replace(num_classes=num_classes)
       for folder, data, num_classes in (
           ('inat', 'inat2017', 5089), ('inat', 'inat2018', 8142), ('inat', 'inat2019', 1010),
           ('places', 'places205', 205), ('places', 'places365', 365))
       for size, values in SIZES.items()},
    **{f'partial/vit_l16_in1k_k{k}': L for k in ('0_5', 1, 2, 4, 6, 12, 18, 24)},
}
LINEAR = {  # LARS, batch 16384, no weight decay, cosine to 0
    'linear/vit_b16_in1k': Values('base', 0.1, 1.0, 0.0, 90, 10, 16384, 0.0, floor=0),
    'linear/vit_l16_in1k': Values('large', 0.1, 1.0, 0.0, 50, 10, 16384, 0.0, floor=0),
    'linear/vit_h14_in1k': Values('huge', 0.1, 1.0, 0.0, 50, 10, 16384, 0.0, patch_size=14, floor=0),
    'partial/vit_l16_in1k_k0': Values('large', 0.1, 1.0, 0.0, 50, 10, 16384, 0.0, floor=0),
}
ROBUSTNESS = {f'classification/robustness/vit_b16_in_{data}': B for data in ('a', 'c', 'r', 'sketch')}
WIDTHS = dict(base=768, large=1024, huge=1280)


@cache
def recipe(name: str) -> Config:
    return load_config(str(ROOT / f'{name}.py'))


def step(pipeline: list[ConfigDict], kind: str) -> ConfigDict:
    """The one transform of a type, by its last name."""
    found = [transform for transform in pipeline if transform.type.rsplit('.', 1)[-1] == kind]
    assert len(found) == 1, (kind, [transform.type for transform in pipeline])
    return found[0]


def test_every_recipe_has_its_values_here():
    files = {str(path.relative_to(CONFIGS).with_suffix('')) for folder in ('classification', 'linear', 'partial')
             for path in (ROOT / folder).rglob('*.py')}
    assert files == set(FINETUNE) | set(LINEAR) | set(ROBUSTNESS)


@pytest.mark.parametrize('name', [*FINETUNE, *LINEAR, *ROBUSTNESS])
def test_schedule_and_model(name):
    cfg, want = recipe(name), {**FINETUNE, **LINEAR, **ROBUSTNESS}[name]
    backbone, optimizer, schedule = cfg.model.backbone, cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (backbone.arch, backbone.patch_size, backbone.img_size) == (want.arch, want.patch_size, want.img_size)
    assert backbone.drop_path_rate == want.drop_path
    assert cfg.model.head.in_channels == WIDTHS[want.arch]
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == want.num_classes
    assert cfg.auto_scale_lr == dict(base_batch_size=want.batch, enable=True)
    assert optimizer.lr == pytest.approx(want.base_lr * want.batch / 256)
    assert optimizer.weight_decay == want.weight_decay
    assert cfg.optim_wrapper.get('paramwise_cfg', {}).get('layer_decay_rate', 1.0) == want.layer_decay
    assert cfg.optim_wrapper.constructor == 'mae_mm.LayerDecayOptimWrapperConstructor'
    assert cfg.train_cfg.max_epochs == want.epochs
    assert [s.type for s in schedule] == ['LinearLR', 'CosineAnnealingLR']
    assert schedule[0].end == schedule[1].begin == want.warmup
    assert all(s.by_epoch and s.convert_to_iter_based for s in schedule) and 'end' not in schedule[1]
    assert schedule[1].get('eta_min_ratio', 0) * optimizer.lr == pytest.approx(want.floor)
    assert cfg.train_dataloader.drop_last
    if name in LINEAR:
        assert (optimizer.type, optimizer.momentum) == ('mae_mm.LARS', 0.9)
    else:
        assert (optimizer.type, tuple(optimizer.betas), optimizer.fused) == ('AdamW', want.betas, True)


@pytest.mark.parametrize('name', [*FINETUNE, *ROBUSTNESS])
def test_fine_tuning_augmentation_and_head(name):
    cfg, pixels = recipe(name), {**FINETUNE, **ROBUSTNESS}[name].img_size
    train, val = cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline
    randaugment, erasing = step(train, 'RandAugment'), step(train, 'RandomErasing')
    assert (randaugment.policies, randaugment.num_policies, randaugment.magnitude_level, randaugment.magnitude_std,
            randaugment.total_level) == ('timm_increasing', 2, 9, 0.5, 10)
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    crop = step(train, 'RandomResizedCrop')
    assert (crop.scale, crop.interpolation, 'crop_ratio_range' in crop) == (pixels, 'bicubic', False)  # (0.08, 1)
    assert step(train, 'RandomFlip').prob == 0.5
    assert step(val, 'CenterCrop').crop_size == pixels
    assert step(val, 'ResizeEdge').scale == (256 if pixels == 224 else pixels)
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert cfg.model.head.init_cfg.std == 2e-5
    assert cfg.model.backbone.out_type == 'avg_featmap'
    assert cfg.data_preprocessor.to_rgb


@pytest.mark.parametrize('name', LINEAR)
def test_linear_probing(name):
    cfg = recipe(name)
    train, val = cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline
    assert [transform.type for transform in train] == ['mae_mm.LoadRandomResizedCrop', 'PackInputs']
    assert (train[0].size, train[0].scale) == (224, (0.08, 1.0))
    assert (val[0].type, val[0].size, val[0].resize) == ('mae_mm.LoadResizeCenterCrop', 224, 256)
    assert not cfg.data_preprocessor.to_rgb  # these transforms deliver RGB
    assert cfg.model.backbone.out_type == 'cls_token' and cfg.model.backbone.tuned_blocks == 0
    assert cfg.model.neck == dict(type='ClsBatchNormNeck', input_features=WIDTHS[cfg.model.backbone.arch])
    assert cfg.model.head.loss == dict(type='CrossEntropyLoss') and cfg.model.head.init_cfg.std == 0.01
    assert cfg.model.train_cfg is None


@pytest.mark.parametrize('k', [0, 0.5, 1, 2, 4, 6, 12, 18, 24])
def test_partial_fine_tuning_trains_k_blocks(k):
    assert recipe(f'partial/vit_l16_in1k_k{str(k).replace(".", "_")}').model.backbone.get('tuned_blocks', 24) == k


def test_training_from_scratch_averages_weights():
    for size in ('b16', 'l16', 'h14'):
        hooks = recipe(f'classification/vit_{size}_in1k_scratch').custom_hooks
        assert [(hook.type, round(1 - hook.momentum, 6)) for hook in hooks] == [('EMAHook', 0.9999)]


@pytest.mark.parametrize(('name', 'kind', 'roots'), [
    ('classification/vit_b16_in1k', 'ImageNet', 'data/imagenet'),
    ('classification/inat/vit_l16_inat2017', 'mae_mm.INaturalist', 'data/inat2017'),
    ('classification/inat/vit_h14_inat2019_448px', 'mae_mm.INaturalist', 'data/inat2019'),
    ('classification/places/vit_b16_places205', 'mae_mm.Places205', 'data/places205'),
    ('classification/places/vit_h14_places365_448px', 'mae_mm.Places365', 'data/places365')])
def test_data_sets(name, kind, roots):
    cfg = recipe(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.dataset.type, loader.dataset.data_root) == (kind, roots)
    assert cfg.train_dataloader.dataset.pipeline[-1].type == 'PackInputs'
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert train.get('split') != val.get('split') or train.ann_file != val.ann_file
    if 'inat' in name:
        assert train.year == val.year == int(name.split('inat')[-1][:4])


@pytest.mark.parametrize(('data', 'root', 'metric'), [
    ('a', 'imagenet-a', 'SubsetAccuracy'), ('r', 'imagenet-r', 'SubsetAccuracy'),
    ('sketch', 'imagenet-sketch', 'SubsetAccuracy'), ('c', 'imagenet-c', 'MeanCorruptionError')])
def test_robustness(data, root, metric):
    cfg = recipe(f'classification/robustness/vit_b16_in_{data}')
    assert cfg.test_dataloader.dataset.type == 'mae_mm.ImageNetVariant'
    assert cfg.test_dataloader.dataset.data_root == f'data/{root}'
    assert cfg.test_evaluator == dict(type=f'mae_mm.{metric}')
    resized = any(transform.type == 'ResizeEdge' for transform in cfg.test_dataloader.dataset.pipeline)
    assert resized == (data != 'c')  # the images of ImageNet-C have 224 px


def test_parent_and_leaves_are_short():
    for path in (path for folder in ('classification', 'linear', 'partial') for path in (ROOT / folder).rglob('*.py')):
        lines = len(path.read_text().splitlines())
        assert lines <= (90 if path.stem == 'vit_b16_in1k' else 25), path
