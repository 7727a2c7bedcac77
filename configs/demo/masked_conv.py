"""The convolutional variant at demo scale: a narrow ResNet-18, 64-px crops, patches of 16 px (`ours`).

Run: python tools/train.py configs/demo/masked_conv.py
"""
_base_ = './mae_pretrain.py'
model = dict(
    _delete_=True,
    type='mae_mm.MaskedConv',
    data_preprocessor=dict(
        type='mae_mm.ImagePreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=32, base_channels=32, strides=(1, 2, 2, 1)),
    neck=dict(type='mae_mm.ConvDecoder', in_channels=256, stride=16, embed_dim=128),
    patch_size=16,
    mask_ratio=0.6)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=64, scale=(0.2, 1.0))]))
val_dataloader = dict(dataset=dict(pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=64)]))
test_dataloader = val_dataloader
custom_hooks = [
    dict(type='mae_mm.PanelHook'),
    dict(type='mae_mm.SummaryHook', next_commands=[
        'python tools/visualize.py {checkpoint} {images} --config {config} --out panel.png']),
]
