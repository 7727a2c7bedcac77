"""ViTDet on COCO, ViT-L/16, from random weights, with the budget of the run from MAE and no layer decay (`ours`).

Run: bash tools/dist_train.sh configs/baselines/vitdet_l_coco_scratch.py 64
"""
_base_ = '../detection/vitdet_l_coco.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
