"""Block-wise, 50 %: 83.9 fine-tuning, 72.3 linear probing (Table 1f, `paper`).

Run: bash tools/dist_train.sh configs/ablation/sampling/block_50.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_sampling='block', mask_ratio=0.5)
