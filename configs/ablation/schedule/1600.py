"""1600 epochs: in the figure only (Fig. 7).

Run: bash tools/dist_train.sh configs/ablation/schedule/1600.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_cfg = dict(max_epochs=1600)
