"""MAE pre-training, ViT-H/14, 1600 epochs (Table 3, `paper`).

Run: bash tools/dist_train.sh configs/pretrain/vit_h14_1600e.py 64    # 64 GPUs x 64 images
"""
_base_ = './vit_h14_800e.py'
train_cfg = dict(max_epochs=1600)
