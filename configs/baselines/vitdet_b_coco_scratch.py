"""ViTDet on COCO, ViT-B/16, from random weights, with the budget of the run from MAE and no layer decay (`ours`).

Run: bash tools/dist_train.sh configs/baselines/vitdet_b_coco_scratch.py 32
"""
_base_ = '../detection/vitdet_b_coco.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
