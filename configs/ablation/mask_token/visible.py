"""No mask token in the encoder: 84.9 fine-tuning, 73.5 linear probing (Table 1c, `paper`).

Run: bash tools/dist_train.sh configs/ablation/mask_token/visible.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(mask_token=False)
