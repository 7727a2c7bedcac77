"""10 % masked: 54.6 linear probing (Fig. 5, `paper`).

Run: bash tools/dist_train.sh configs/ablation/mask_ratio/10.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_ratio=0.1)
