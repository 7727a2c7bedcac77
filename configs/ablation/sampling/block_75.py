"""Block-wise, 75 %: 82.8 fine-tuning, 63.9 linear probing (Table 1f, `paper`).

Run: bash tools/dist_train.sh configs/ablation/sampling/block_75.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_sampling='block', mask_ratio=0.75)
