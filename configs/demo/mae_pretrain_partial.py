"""The demo pre-training with a decoder that predicts a third of the masked patches (`ours`).

Run: python tools/train.py configs/demo/mae_pretrain_partial.py
"""
_base_ = './mae_pretrain.py'
model = dict(neck=dict(type='mae_mm.PartialDecoder', predict_ratio=1 / 3))
