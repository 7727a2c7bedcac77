"""Fine-tuning of the encoder of configs/demo/ablation.py, on all 3,000 labelled demo images (`ours`).

Run: python tools/train.py configs/demo/ablation_finetune.py --pretrained CHECKPOINT
"""
_base_ = './classification.py'
model = dict(backbone=dict(arch=dict(embed_dim=128, depth=4, num_heads=4)), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(indices=None))
train_cfg = dict(max_epochs=12, val_interval=12)
