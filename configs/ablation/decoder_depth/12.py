"""Decoder of 12 blocks: 84.4 fine-tuning, 73.3 linear probing (Table 1a, `paper`).

Run: bash tools/dist_train.sh configs/ablation/decoder_depth/12.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(depth=12))
