"""Fine-tuning at demo scale: 1,008 labelled images of 12 classes, 48 px, patch 8 (`ours`).

The Places365 list cycles through the classes, so its first 1,008 images are 84 of each class.
Run: python tools/train.py configs/demo/classification.py --pretrained work_dirs/demo/mae_pretrain/epoch_40.pth
     make demo-classification PRETRAINED=CHECKPOINT    # every protocol, beside a random start, three seeds
"""
_base_ = '../classification/vit_b16_in1k.py'
data_preprocessor = dict(num_classes=12, to_rgb=False)
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=192, depth=6, num_heads=3), img_size=48, patch_size=8),
    head=dict(num_classes=12, in_channels=192),
    train_cfg=None)
train_pipeline = [
    dict(type='mae_mm.LoadRandomResizedCrop', size=48, scale=(0.25, 1.0)), dict(type='PackInputs', input_key='inputs')]
test_pipeline = [
    dict(type='mae_mm.LoadResizeCenterCrop', size=48, resize=60), dict(type='PackInputs', input_key='inputs')]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='mae_mm.Places365', data_root='data/demo/places365', indices=1008, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=252,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='mae_mm.Places365', data_root='data/demo/places365', pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=14, val_interval=14)
default_hooks = dict(logger=dict(interval=31))
