"""UperNet on a frozen ViT-B/16: only neck and heads are trained, on ADE20K, 40k iterations (`ours`).

For small GPUs: the backbone needs no activations for the backward pass and no optimizer state.
Run: python tools/train.py configs/segmentation/upernet_vit_b_ade20k_frozen.py --pretrained CHECKPOINT
"""
_base_ = './upernet_vit_b_ade20k.py'
model = dict(backbone=dict(tuned_blocks=0, drop_path_rate=0.0, rel_pos=False))  # a frozen bias would stay zero
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
