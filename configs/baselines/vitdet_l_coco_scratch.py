"""ViTDet on COCO, ViT-L/16, from random weights (no number published).

The other side of configs/detection/vitdet_l_coco.py: the same budget; only the
layer decay is off, for no layer knows anything yet (`ours`).
Run: bash tools/dist_train.sh configs/baselines/vitdet_l_coco_scratch.py 64
"""
_base_ = '../detection/vitdet_l_coco.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
