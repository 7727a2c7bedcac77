"""Decoder of 768 channels: 84.4 fine-tuning, 73.1 linear probing (Table 1b, `paper`).

Heads are 32 channels wide, as in the default (`ours`; the paper does not say).
Run: bash tools/dist_train.sh configs/ablation/decoder_width/0768.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(embed_dim=768, num_heads=24))
