"""The default of the ablations at demo scale: a ViT of 4 blocks, 128 wide, 2,790 steps of 32 images (`ours`).

Smaller and shorter than configs/demo/mae_pretrain.py, on raw pixels as in the paper's ablations.
Run:  python tools/ablate.py configs/ablation/mask_ratio.py --base configs/demo/ablation.py
Cost: about 3 minutes of one core for each row and seed.
"""
_base_ = './mae_pretrain.py'
model = dict(
    backbone=dict(arch=dict(embed_dim=128, depth=4, num_heads=4)),
    neck=dict(embed_dim=64, depth=2, num_heads=2),
    norm_pix_loss=False, mask_sampling='random', mask_token=False, loss_on='masked', loss_type='l2')
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=30, val_interval=30)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
transfers = dict(  # read by tools/ablate.py
    finetune='configs/demo/ablation_finetune.py', linear='configs/demo/ablation_linear.py',
    scratch='configs/demo/ablation_scratch.py')
