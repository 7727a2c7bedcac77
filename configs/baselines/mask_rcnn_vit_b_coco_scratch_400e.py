"""Mask R-CNN on COCO, ViT-B/16, from random weights with the published schedule (arXiv:2111.11429, `paper`).

Published are lr, weight decay and "up to 400 epochs"; all else is that of configs/detection/mask_rcnn_vit_b_coco.py.
Run: bash tools/dist_train.sh configs/baselines/mask_rcnn_vit_b_coco_scratch_400e.py 32
"""
_base_ = '../detection/mask_rcnn_vit_b_coco.py'
optim_wrapper = dict(optimizer=dict(lr=1.6e-4, weight_decay=0.2))
train_cfg = dict(max_iters=4 * 184375)
