"""Absolute differences: the paper does not have it (ours).

Run: bash tools/dist_train.sh configs/ablation/loss/l1.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(loss_type='l1')
