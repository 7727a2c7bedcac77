"""Decoder of 2 blocks: 84.9 fine-tuning, 70.0 linear probing (Table 1a, `paper`).

Run: bash tools/dist_train.sh configs/ablation/decoder_depth/02.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(depth=2))
