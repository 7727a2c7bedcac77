"""The budget of configs/demo/detection_multiband.py from random weights, without layer decay (`ours`).

Run: python tools/train.py configs/demo/detection_multiband_scratch.py
"""
_base_ = './detection_multiband.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
