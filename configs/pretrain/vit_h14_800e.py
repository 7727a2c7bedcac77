"""MAE pre-training, ViT-H/14, 800 epochs, normalised pixels; the paper's Table 2 has raw ones: vit_h14_800e_raw.py.

Run: bash tools/dist_train.sh configs/pretrain/vit_h14_800e.py 64    # 64 GPUs x 64 images
"""
_base_ = '../mae_pretrain.py'
model = dict(backbone=dict(arch='huge', patch_size=14))
