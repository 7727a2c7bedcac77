"""What recipes promise beyond published values: their data, the one difference to their other sides, their size."""

from pathlib import Path

import pytest
from helpers import ROOT
from helpers.configs import recipe
from helpers.layer_decay import LR, WD, assert_same, optimizer_of, published, rates_of
from mmengine.registry import init_default_scope

from mae_mm.engine.runner import load_config
from mae_mm.registry import MODELS
from mae_mm.transfer.published import Published, read_metafiles

CONFIGS = ROOT / 'configs'
PARENTS = ('mae_pretrain', 'vit_b16_in1k', 'mask_rcnn_vit_b_coco', 'upernet_vit_b_ade20k')
PATHS = [path for path in sorted(CONFIGS.rglob('*.py')) if path.parent.name not in ('ablation', 'partial')
         and path.parent.parent.name != 'ablation']


@pytest.mark.parametrize('path', PATHS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_size_and_header(path: Path):
    """A parent has at most 90 lines, a recipe derived from one 25; its header names its command and no result."""
    text = path.read_text()
    assert len(text.splitlines()) <= (90 if path.stem in PARENTS or path.parent.name in ('demo', 'own_data') else 25)
    header = text.split('"""')[1]
    assert 'Run: ' in header and str(path.relative_to(ROOT)) in header.replace('\\\n', '')
    assert not any(word in header for word in (' top-1', ' AP ', ' mIoU '))


@pytest.mark.parametrize(('name', 'kind', 'root'), [
    ('classification/vit_b16_in1k', 'ImageNet', 'data/imagenet'),
    ('linear/vit_l16_in1k', 'ImageNet', 'data/imagenet'),
    ('attentive/vit_h14_in1k', 'ImageNet', 'data/imagenet'),
    *((f'classification/inat/vit_{size}_inat{year}{px}', 'mae_mm.INaturalist', f'data/inat{year}')
      for year in (2017, 2018, 2019) for size, px in (('b16', ''), ('l16', ''), ('h14', ''), ('h14', '_448px'))),
    *((f'classification/places/vit_{size}_places{classes}{px}', 'Places205' if classes == 205 else 'mae_mm.Places365',
      f'data/places{classes}')
      for classes in (205, 365) for size, px in (('b16', ''), ('l16', ''), ('h14', ''), ('h14', '_448px')))])
def test_data_of_classification(name, kind, root):
    cfg = recipe(name)
    train, val, test = (cfg[f'{loader}_dataloader'].dataset for loader in ('train', 'val', 'test'))
    assert {(dataset.type, dataset.data_root) for dataset in (train, val, test)} == {(kind, root)}
    assert train.get('split') != val.get('split') or train.ann_file != val.ann_file
    assert train.pipeline[-1].type == 'PackInputs' and val == test
    assert train.get('year') == val.get('year') == (int(name.split('inat')[-1][:4]) if 'inat/' in name else None)
    # The transforms of probing deliver RGB.
    assert cfg.data_preprocessor.to_rgb != name.startswith(('linear', 'attentive'))
    side = 448 if '448px' in name else 224
    assert side in (train.pipeline[0].get('size'), *(step.get('scale') for step in train.pipeline))
    if kind == 'mae_mm.Places365':
        assert train.get('small', True) == val.get('small', True) == (side == 224)


@pytest.mark.parametrize('name', ['mask_rcnn_vit_b_coco', 'vitdet_l_coco'])
def test_data_of_detection(name):
    cfg = recipe(f'detection/{name}')
    for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.ann_file) == ('CocoDataset', f'annotations/instances_{split}2017.json')
    assert cfg.val_evaluator == cfg.test_evaluator
    assert cfg.train_dataloader.batch_size == (1 if '_l_' in name else 2)
    assert cfg.default_hooks.checkpoint.by_epoch is False and cfg.log_processor.by_epoch is False


@pytest.mark.parametrize('name', [path.stem for path in (CONFIGS / 'segmentation').glob('*.py')])
def test_data_of_segmentation(name):
    cfg = recipe(f'segmentation/{name}')
    model = cfg.model.module if name.endswith('_ms') else cfg.model
    for loader, folder in (('train', 'training'), ('val', 'validation'), ('test', 'validation')):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.data_root) == ('ADE20KDataset', 'data/ade/ADEChallengeData2016')
        assert dataset.data_prefix == dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}')
        for step in dataset.pipeline:  # the data set alone states whether label 0 is a class
            assert 'reduce_zero_label' not in step
    order = [step.type for step in cfg.val_dataloader.dataset.pipeline]
    assert order.index('Resize') < order.index('LoadAnnotations')
    assert model.data_preprocessor.bgr_to_rgb and model.data_preprocessor.test_cfg.size_divisor == 16
    assert cfg.sync_bn == 'torch' and 'SyncBN' not in str(cfg.model)
    assert model.backbone.get('tuned_blocks') == (None if model.backbone.rel_pos else 0)
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0


@pytest.mark.parametrize('name', ['upernet_vit_b_ade20k', 'upernet_vit_l_ade20k'])
def test_multi_scale(name):
    """Six scales of the single-scale test size and two flips; the model inside is that of the single-scale recipe."""
    cfg = recipe(f'segmentation/{name}_ms')
    assert cfg.model.module == recipe(f'segmentation/{name}').model
    transforms = cfg.test_dataloader.dataset.pipeline[1].transforms
    assert [tuple(resize.scale) for resize in transforms[0]] == [
        (1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
    assert [flip.prob for flip in transforms[1]] == [0, 1] and all(resize.keep_ratio for resize in transforms[0])


@pytest.mark.parametrize(('scratch', 'mae'), [
    *((f'baselines/vitdet_{size}_coco_scratch', f'detection/vitdet_{size}_coco') for size in 'blh'),
    *((f'baselines/upernet_vit_{size}_ade20k_scratch', f'segmentation/upernet_vit_{size}_ade20k') for size in 'bl'),
    *((f'demo/{task}_scratch', f'demo/{task}') for task in ('classification', 'detection', 'segmentation'))])
def test_only_the_start_and_the_layer_decay_differ(scratch, mae):
    own, other = recipe(scratch).to_dict(), recipe(mae).to_dict()
    assert own['optim_wrapper']['paramwise_cfg'].pop('layer_decay_rate') == 1.0
    assert other['optim_wrapper']['paramwise_cfg'].pop('layer_decay_rate') < 1
    assert own == other


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_six_bands_from_random_weights_have_their_own_rate(task):
    own, other = (recipe(f'demo/{task}_multiband{end}').to_dict() for end in ('_scratch', ''))
    rates = [cfg['optim_wrapper']['optimizer'].pop('lr') for cfg in (own, other)]
    decays = [cfg['optim_wrapper']['paramwise_cfg'].pop('layer_decay_rate') for cfg in (own, other)]
    assert own == other and rates[0] < rates[1] and decays[0] == 1.0


@pytest.mark.parametrize(('name', 'parent'), [
    ('pretrain/continue_vit_b16', 'mae_pretrain'), ('pretrain/continue_vit_l16', 'pretrain/vit_l16_800e'),
    ('pretrain/continue_vit_h14', 'pretrain/vit_h14_800e'), ('demo/mae_continue', 'demo/mae_pretrain')])
def test_continuing_differs_in_the_schedule_alone(name, parent):
    own, other = recipe(name).to_dict(), recipe(parent).to_dict()
    assert own['optim_wrapper'].pop('paramwise_cfg') == dict(layer_decay_rate=0.75)
    for key in ('train_cfg', 'param_scheduler', 'auto_scale_lr'):
        own.pop(key), other.pop(key)
    lr, before = (cfg['optim_wrapper']['optimizer'].pop('lr') for cfg in (own, other))
    assert own == other and lr < before


@pytest.mark.parametrize(('name', 'rate'), [('vitdet_b_coco', 0.7), ('mask_rcnn_vit_b_coco', 1.0)])
def test_rates_of_every_parameter_of_the_detector(name, rate):
    """The recipe's model, in width and depth of a test, against the rule written down independently."""
    model = recipe(f'detection/{name}').model.copy()
    taps = range(4) if rate == 1 else (3, )
    model.backbone = {**model.backbone, 'img_size': 64, 'out_indices': taps,
                      'arch': dict(embed_dim=32, depth=4, num_heads=2)}
    if rate == 1:
        model.neck = [{**model.neck[0], 'embed_dim': 32}, {**model.neck[1], 'in_channels': [32] * 4}]
    else:
        model.neck = {**model.neck, 'embed_dim': 32}
    init_default_scope('mmdet')
    model = MODELS.build(model)
    actual = rates_of(model, optimizer_of(model, **recipe(f'detection/{name}').optim_wrapper.get('paramwise_cfg', {})))
    expected = published(model, 'backbone.', 4, rate)
    assert {key: lr for key, (lr, _) in actual.items()} == pytest.approx({key: lr for key, (lr, _) in expected.items()})
    if rate == 1:
        assert_same(actual, {key: (lr, 0 if '.rel_pos' in key else wd) for key, (lr, wd) in expected.items()})
    else:  # the release: biases and relative positions decay, norms of the ViT and tables do not
        assert actual['backbone.blocks.0.attn.qkv.bias'][1] == actual['backbone.blocks.0.attn.rel_pos_h'][1] == WD
        assert actual['backbone.blocks.0.norm1.weight'][1] == actual['backbone.pos_embed'][1] == 0
    assert actual['rpn_head.rpn_cls.weight'] == (LR, WD)


@pytest.mark.parametrize('published', [one for one in read_metafiles() if '/robustness/' in one.config],
                         ids=lambda one: one.name)
def test_robustness(published: Published):
    """Every published number has a config of its model, its data, its metric, and images of the model's size."""
    cfg = load_config(str(ROOT / published.config), dict(option.split('=') for option in published.options.split()))
    backbone, dataset = cfg.model.backbone, cfg.test_dataloader.dataset
    pixels = 448 if published.architecture.endswith(' at 448 px') else 224
    assert published.architecture.startswith(f'ViT-{backbone.arch[0].upper()}/{backbone.patch_size}')
    assert (dataset.type, dataset.data_root) == ('mae_mm.ImageNetVariant', f'data/{published.dataset.lower()}')
    corrupted = published.dataset == 'ImageNet-C'
    assert cfg.test_evaluator == dict(type=f'mae_mm.{"MeanCorruptionError" if corrupted else "SubsetAccuracy"}')
    steps = {step.type: step for step in dataset.pipeline}
    assert backbone.img_size == steps['CenterCrop'].crop_size == pixels
    scale = steps['ResizeEdge'].scale if 'ResizeEdge' in steps else None
    assert scale == (448 if pixels == 448 else None if corrupted else 256)  # the images of ImageNet-C have 224 px
