"""The budget of configs/demo/detection_multiband.py from random weights, at the best rate found for them (`ours`).

Run: python tools/train.py configs/demo/detection_multiband_scratch.py
"""
_base_ = './detection_multiband.py'
optim_wrapper = dict(optimizer=dict(lr=1e-4))
