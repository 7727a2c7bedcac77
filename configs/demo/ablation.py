"""The default of the ablations at demo scale: as configs/demo/mae_pretrain.py but shorter, raw pixels (`ours`).

About 5 minutes of one core for each row and seed. Too few steps for a transfer to tell rows apart (docs/ablations.md).
Run: python tools/ablate.py configs/ablation/mask_ratio --base configs/demo/ablation.py
"""
_base_ = './mae_pretrain.py'
model = dict(norm_pix_loss=False, mask_sampling='random', mask_token=False, loss_on='masked', loss_type='l2')
train_dataloader = dict(batch_size=128, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=36, val_interval=36)
default_hooks = dict(checkpoint=dict(interval=12, max_keep_ckpts=1))
