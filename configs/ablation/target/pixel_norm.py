"""Pixels, normalised patch by patch: 85.4 fine-tuning, 73.9 linear probing (Table 1d, `paper`).

Run: bash tools/dist_train.sh configs/ablation/target/pixel_norm.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(norm_pix_loss=True)
