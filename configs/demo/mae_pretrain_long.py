"""The demo pre-training at length: 2.0 M images in batches of 256, 78 minutes on one core (`ours`).

The run that transfers at demo scale start from.

Run: python tools/train.py configs/demo/mae_pretrain_long.py --resume    # stopped anywhere, the same command goes on
"""
_base_ = './mae_pretrain.py'
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(max_epochs=720, val_interval=20)
default_hooks = dict(logger=dict(interval=11), checkpoint=dict(interval=20))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=20, convert_to_iter_based=True),
]
