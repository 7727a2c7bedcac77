"""The budget of configs/demo/segmentation_multiband.py from random weights, without layer decay (`ours`).

Run: python tools/train.py configs/demo/segmentation_multiband_scratch.py
"""
_base_ = './segmentation_multiband.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
