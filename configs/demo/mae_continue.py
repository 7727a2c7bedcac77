"""Continue a pre-training at demo scale, on other images: 20 epochs, half the lr, short warm-up (`ours`).

Run: python tools/train.py configs/demo/mae_continue.py --data PHOTOS \
         --pretrained work_dirs/demo/mae_pretrain/epoch_40.pth
"""
_base_ = './mae_pretrain.py'
optim_wrapper = dict(optimizer=dict(lr=4e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=20, val_interval=5)
