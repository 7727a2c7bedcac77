"""800 epochs: 84.9 fine-tuning, 73.5 linear probing (Fig. 7, `paper`).

Run: bash tools/dist_train.sh configs/ablation/schedule/0800.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_cfg = dict(max_epochs=800)
