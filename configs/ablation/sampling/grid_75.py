"""Grid, 75 %: 84.0 fine-tuning, 66.0 linear probing (Table 1f, `paper`).

Run: bash tools/dist_train.sh configs/ablation/sampling/grid_75.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_sampling='grid', mask_ratio=0.75)
