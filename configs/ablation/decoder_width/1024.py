"""Decoder of 1024 channels: the paper has no number (`ours`).

Heads are 32 channels wide, as in the default (`ours`; the paper does not say).
Run: bash tools/dist_train.sh configs/ablation/decoder_width/1024.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(embed_dim=1024, num_heads=32))
