"""Random, 75 %: 84.9 fine-tuning, 73.5 linear probing (Table 1f, `paper`).

Run: bash tools/dist_train.sh configs/ablation/sampling/random_75.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_sampling='random', mask_ratio=0.75)
