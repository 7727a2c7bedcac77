"""Masked pre-training of a ResNet-50: patches of 32 px hidden, transposed-convolution decoder, L1 on hidden pixels.

Every value is `ours`: the MAE paper has no convolutional variant, and nobody has run this recipe on ImageNet.
Run: bash tools/dist_train.sh configs/masked_conv/pretrain_r50.py 8
"""
_base_ = '../mae_pretrain.py'
model = dict(
    _delete_=True,
    type='mae_mm.MaskedConv',
    data_preprocessor=dict(
        type='mae_mm.ImagePreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type='mmpretrain.ResNet', depth=50),
    neck=dict(type='mae_mm.ConvDecoder', in_channels=2048, stride=32),
    patch_size=32,
    mask_ratio=0.6)
train_cfg = dict(max_epochs=300)
custom_hooks = [
    dict(type='mae_mm.PanelHook'),
    dict(type='mae_mm.SummaryHook', next_commands=[
        'python tools/visualize.py {checkpoint} {images} --config {config} --out panel.png']),
]
