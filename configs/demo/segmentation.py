"""UperNet at demo scale: 20 classes, 600 labelled images, 64-px crops of a 48-px encoder, patch 8 (`ours`).

Patches of 8 px halve all strides: 2, 4, 8, 16. Class names and colours are given as for your own data.
Run: make demo-segmentation PRETRAINED=CHECKPOINT    # beside a random start, two seeds
     python tools/train.py configs/demo/segmentation.py --pretrained CHECKPOINT
"""
_base_ = '../segmentation/upernet_vit_b_ade20k.py'
metainfo = dict(
    classes=[
        'star_stripes', 'star_dots', 'fish_dots', 'fish_rings', 'leaf_rings', 'leaf_zigzag', 'vase_zigzag',
        'vase_checks', 'mushroom_checks', 'mushroom_patches', 'gear_patches', 'gear_stripes', 'brick', 'grass',
        'gravel', 'fur', 'table', 'sky', 'stars', 'vessels',],
    palette=[
        [255, 25, 25], [166, 91, 17], [255, 255, 25], [91, 166, 17], [25, 255, 25], [17, 166, 91], [25, 255, 255],
        [17, 91, 166], [25, 25, 255], [91, 17, 166], [255, 25, 255], [166, 17, 91], [217, 152, 152], [140, 130, 98],
        [184, 217, 152], [98, 140, 109], [152, 217, 217], [98, 109, 140], [184, 152, 217], [140, 98, 130],])
model = dict(
    data_preprocessor=dict(size=(64, 64), test_cfg=dict(size_divisor=8)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=192, depth=6, num_heads=3), img_size=64, patch_size=8,
        out_indices=(0, 2, 3, 5), drop_path_rate=0.0),
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192] * 4, channels=64, num_classes=20),
    auxiliary_head=dict(in_channels=192, channels=64, num_classes=20),
    test_cfg=dict(_delete_=True, mode='whole'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(256, 64), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset', data_root='data/demo/ade/ADEChallengeData2016', metainfo=metainfo,
        reduce_zero_label=True, indices=600, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset', data_root='data/demo/ade/ADEChallengeData2016', metainfo=metainfo,
        reduce_zero_label=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50),
]
train_cfg = dict(max_iters=600, val_interval=600)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=600))
