"""The default of the ablations at demo scale: a ViT of 4 blocks, 128 wide, 2,790 steps of 32 images (`ours`).

About 3 minutes of one core for each row and seed. configs/demo/mae_pretrain.py has 6 blocks and batches of 256: in so
short a time it learns nothing that a transfer could show (docs/results.md). Raw pixels, as in the paper's ablations.
Run: python tools/ablate.py configs/ablation/mask_ratio --base configs/demo/ablation.py
"""
_base_ = './mae_pretrain.py'
model = dict(
    backbone=dict(arch=dict(embed_dim=128, depth=4, num_heads=4)),
    neck=dict(embed_dim=64, depth=2, num_heads=2),
    norm_pix_loss=False, mask_sampling='random', mask_token=False, loss_on='masked', loss_type='l2')
train_dataloader = dict(batch_size=32, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=8e-3))  # 1e-3 after scaling; 2e-3 is worse, for the loss and for what transfers
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30, val_interval=30)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
transfers = dict(  # read by tools/ablate.py
    finetune='configs/demo/ablation_finetune.py', linear='configs/demo/ablation_linear.py',
    scratch='configs/demo/ablation_scratch.py')
