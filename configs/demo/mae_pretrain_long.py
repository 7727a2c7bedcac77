"""The demo pre-training, nine times as long: 2.0 M images. Transfer evidence in the docs starts from its checkpoint.

Run: python tools/train.py configs/demo/mae_pretrain_long.py --resume    # stopped anywhere, the same command goes on
"""
_base_ = './mae_pretrain.py'
train_cfg = dict(max_epochs=720)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=20, convert_to_iter_based=True),
]
