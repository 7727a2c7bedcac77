"""20 % masked: in the figure only (Fig. 5).

Run: bash tools/dist_train.sh configs/ablation/mask_ratio/20.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_ratio=0.2)
