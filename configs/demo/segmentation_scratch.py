"""The budget of configs/demo/segmentation.py from random weights, without layer decay (`ours`).

Run: python tools/train.py configs/demo/segmentation_scratch.py
"""
_base_ = './segmentation.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
