"""The budget of configs/demo/classification.py from random weights, without layer decay (`ours`).

Run: python tools/train.py configs/demo/classification_scratch.py
"""
_base_ = './classification.py'
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=1.0))
