"""Attentive probing at demo scale: 32 queries, BatchNorm, linear layer, LARS (`ours`); as classification_linear.py.

Run: python tools/train.py configs/demo/classification_attentive.py --pretrained CHECKPOINT
"""
_base_ = './classification_linear.py'
model = dict(
    backbone=dict(out_type='raw'),
    neck=dict(_delete_=True, type='mae_mm.AttentivePool', embed_dim=192, num_queries=32))
