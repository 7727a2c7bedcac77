"""Attentive probing on ImageNet-1K, ViT-L/16 (efficient probing, arXiv:2506.10178); as ViT-B/16.

Run: bash tools/dist_train.sh configs/attentive/vit_l16_in1k.py 8 --pretrained CHECKPOINT    # 8 GPUs x 512 images
Cost: 20 h 17 min, batch 4096 (`release`).
"""
_base_ = './vit_b16_in1k.py'
model = dict(backbone=dict(arch='large'), neck=dict(embed_dim=1024), head=dict(in_channels=1024))
