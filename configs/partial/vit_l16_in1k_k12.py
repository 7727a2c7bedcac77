"""Partial fine-tuning on ImageNet-1K, ViT-L/16, only the last 12 blocks (Fig. 9, `paper`).

The recipe is that of full fine-tuning. The start is MAE, 800 epochs, raw pixels.
Run: bash tools/dist_train.sh configs/partial/vit_l16_in1k_k12.py 16 --pretrained CHECKPOINT    # 16 GPUs x 64 images
"""
_base_ = '../classification/vit_l16_in1k.py'
model = dict(backbone=dict(tuned_blocks=12))
