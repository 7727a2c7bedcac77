"""Attentive probing on ImageNet-1K, ViT-H/14 (efficient probing, arXiv:2506.10178); as ViT-B/16.

No result is published.
Run: bash tools/dist_train.sh configs/attentive/vit_h14_in1k.py 8 --pretrained CHECKPOINT    # 8 GPUs x 512 images
"""
_base_ = './vit_b16_in1k.py'
model = dict(backbone=dict(arch='huge', patch_size=14), neck=dict(embed_dim=1280), head=dict(in_channels=1280))
