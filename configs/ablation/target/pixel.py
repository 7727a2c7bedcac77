"""Pixels, as they are: 84.9 fine-tuning, 73.5 linear probing (Table 1d, `paper`).

Run: bash tools/dist_train.sh configs/ablation/target/pixel.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(norm_pix_loss=False)
