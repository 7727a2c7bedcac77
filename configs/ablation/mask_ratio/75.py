"""75 % masked: 84.9 fine-tuning, 73.5 linear probing (Fig. 5, `paper`).

Run: bash tools/dist_train.sh configs/ablation/mask_ratio/75.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_ratio=0.75)
