"""Partial fine-tuning on ImageNet-1K, ViT-L/16, only the last block: 81.0 top-1 (section 4.3, `paper`).

The recipe is that of full fine-tuning. The start is MAE, 800 epochs, raw pixels.
Run: bash tools/dist_train.sh configs/partial/vit_l16_in1k_k1.py 16 --pretrained CHECKPOINT    # 16 GPUs x 64 images
"""
_base_ = '../classification/vit_l16_in1k.py'
model = dict(backbone=dict(tuned_blocks=1))
