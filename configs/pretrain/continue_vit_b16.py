"""Continue the pre-training of a ViT-B/16 on own images: 100 epochs, lower lr, by layer, short warm-up (`ours`).

A file with a decoder continues both; an encoder alone gets a new decoder. Tried at demo scale only: docs/own_data.md.
Run: python tools/train.py configs/pretrain/continue_vit_b16.py --data PHOTOS \
         --pretrained mae_pretrain_vit_base_full.pth
"""
_base_ = '../mae_pretrain.py'
# Not scaled to the batch: half of what the square-root rule gives for 256 images, all of it for 64.
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=256, enable=False)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=100, val_interval=5)
