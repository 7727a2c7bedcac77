"""Decoder of 1 block: 84.8 fine-tuning, 65.5 linear probing (Table 1a, `paper`).

Run: bash tools/dist_train.sh configs/ablation/decoder_depth/01.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(depth=1))
