"""The budget of configs/demo/segmentation_multiband.py from random weights, at the best rate found for them (`ours`).

Run: python tools/train.py configs/demo/segmentation_multiband_scratch.py
"""
_base_ = './segmentation_multiband.py'
optim_wrapper = dict(optimizer=dict(lr=3e-4))
