"""Decoder of 512 channels: 84.9 fine-tuning, 73.5 linear probing (Table 1b, `paper`).

Heads are 32 channels wide, as in the default (`ours`; the paper does not say).
Run: bash tools/dist_train.sh configs/ablation/decoder_width/0512.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(embed_dim=512, num_heads=16))
