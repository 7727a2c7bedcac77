"""Mask tokens in the encoder: 84.2 fine-tuning, 59.6 linear probing (Table 1c, `paper`).

3.3 times the FLOPs (`paper`).
Run: bash tools/dist_train.sh configs/ablation/mask_token/with_m.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_token=True)
