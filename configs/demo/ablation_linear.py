"""Linear probing of the encoder of configs/demo/ablation.py, on all 3,000 labelled demo images (`ours`).

Run: python tools/train.py configs/demo/ablation_linear.py --pretrained CHECKPOINT
"""
_base_ = './classification_linear.py'
model = dict(
    backbone=dict(arch=dict(embed_dim=128, depth=4, num_heads=4)), neck=dict(input_features=128),
    head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(indices=None))
train_cfg = dict(max_epochs=12, val_interval=12)
