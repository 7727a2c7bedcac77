"""Partial fine-tuning at demo scale: the last of 6 blocks (`ours`); otherwise as configs/demo/classification.py.

Run: python tools/train.py configs/demo/classification_partial.py --pretrained CHECKPOINT
     … --cfg-options model.backbone.tuned_blocks=4
"""
_base_ = './classification.py'
model = dict(backbone=dict(tuned_blocks=1))
