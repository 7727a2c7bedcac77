"""The long demo pre-training, from which the transfers at demo scale start: 2.0 M images in batches of 256 (`ours`).

Run:  python tools/train.py configs/demo/mae_pretrain_long.py --resume    # the same command resumes it
Cost: 78 minutes on one core.
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
