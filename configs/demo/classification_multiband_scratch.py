"""The budget of configs/demo/classification_multiband.py from random weights, at the best rate found for them (`ours`).

Run: python tools/train.py configs/demo/classification_multiband_scratch.py
"""
_base_ = './classification_multiband.py'
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
