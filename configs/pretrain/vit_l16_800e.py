"""MAE pre-training, ViT-L/16, 800 epochs, normalised pixels (Table 1, `paper`).

Run:  bash tools/dist_train.sh configs/pretrain/vit_l16_800e.py 64    # 64 GPUs x 64 images
Cost: about 42 hours on 64 V100 (`release`).
"""
_base_ = '../mae_pretrain.py'
model = dict(backbone=dict(arch='large'))
