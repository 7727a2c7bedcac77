"""ViTDet on COCO, ViT-B/16, from random weights with the published schedule (arXiv:2203.16527, Table 11, `paper`).

Published are lr, weight decay and epochs; the steps are stretched with them, and all else is as from MAE (`ours`).
Run: bash tools/dist_train.sh configs/baselines/vitdet_b_coco_scratch_300e.py 32
"""
_base_ = './vitdet_b_coco_scratch.py'
optim_wrapper = dict(optimizer=dict(lr=1.6e-4, weight_decay=0.2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=250),
    dict(type='MultiStepLR', by_epoch=False, milestones=[3 * 163889, 3 * 177546], gamma=0.1),
]
train_cfg = dict(max_iters=3 * 184375)  # 300 epochs
