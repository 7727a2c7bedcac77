"""MAE pre-training, ViT-L/16, 800 epochs (Table 1: 85.4 top-1 after fine-tuning, normalised pixels, `paper`).

Run: bash tools/dist_train.sh configs/pretrain/vit_l16_800e.py 64    # 64 GPUs x 64 images; 42 h on V100 (`release`)
"""
_base_ = '../mae_pretrain.py'
model = dict(backbone=dict(arch='large'))
