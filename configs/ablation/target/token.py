"""Tokens of a dVAE: 85.3 fine-tuning, 71.6 linear probing (Table 1d, `paper`).

The weights of DALL-E's encoder, as mmpretrain publishes them for BEiT, are yours to fetch.
Run: bash tools/dist_train.sh configs/ablation/target/token.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(target=dict(type='mae_mm.TokenTarget', weights='weights/dalle_encoder.pth'))
