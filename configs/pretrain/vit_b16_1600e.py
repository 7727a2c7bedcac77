"""MAE pre-training, ViT-B/16, 1600 epochs (Table 3, `paper`).

Run: bash tools/dist_train.sh configs/pretrain/vit_b16_1600e.py 64    # 64 GPUs x 64 images
"""
_base_ = '../mae_pretrain.py'
train_cfg = dict(max_epochs=1600)
