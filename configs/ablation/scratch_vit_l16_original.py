"""ViT-L/16 from scratch on ImageNet-1K as in the original ViT: 76.5 top-1 (MAE, section 4, `paper`).

Values: Dosovitskiy et al. (arXiv:2010.11929), Table 3, `paper`: Adam with decoupled weight decay 0.3, batch 4096, 300
epochs, 10,000 warm-up steps, lr 3e-3, cosine, gradients clipped to a norm of 1; crops and flips only. Differs from the
paper: no dropout (there 0.1); the head sees the mean patch token, as in the other rows.
Run: bash tools/dist_train.sh configs/ablation/scratch_vit_l16_original.py 64    # 64 GPUs x 64 images
"""
_base_ = '../classification/vit_l16_in1k_scratch.py'
model = dict(
    backbone=dict(drop_path_rate=0.0),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss')),
    train_cfg=None)
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')]))
optim_wrapper = dict(optimizer=dict(lr=3e-3, betas=(0.9, 0.999), weight_decay=0.3), clip_grad=dict(max_norm=1.0))
param_scheduler = [  # 10,000 steps are 32 epochs
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=32, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=32, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
custom_hooks = []  # no moving average of the weights
