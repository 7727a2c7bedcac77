"""Decoder of 256 channels: 84.8 fine-tuning, 71.3 linear probing (Table 1b, `paper`).

Heads are 32 channels wide, as in the default (`ours`; the paper does not say).
Run: bash tools/dist_train.sh configs/ablation/decoder_width/0256.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(embed_dim=256, num_heads=8))
