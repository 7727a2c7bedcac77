"""The demo pre-training with a cross-attention decoder (idea of arXiv:2401.14391) (`ours`).

Run: python tools/train.py configs/demo/mae_pretrain_cross.py
"""
_base_ = './mae_pretrain.py'
model = dict(neck=dict(type='mae_mm.CrossDecoder', predict_ratio=1 / 3))
