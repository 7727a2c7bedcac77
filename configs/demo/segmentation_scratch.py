"""The other side of configs/demo/segmentation.py: the same budget from random weights (`ours`).

Run: python tools/train.py configs/demo/segmentation_scratch.py
"""
_base_ = './segmentation.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
