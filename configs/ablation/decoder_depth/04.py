"""Decoder of 4 blocks: 84.9 fine-tuning, 71.9 linear probing (Table 1a, `paper`).

Run: bash tools/dist_train.sh configs/ablation/decoder_depth/04.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(depth=4))
