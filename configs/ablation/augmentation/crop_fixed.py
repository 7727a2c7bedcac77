"""Crop of fixed size: 84.7 fine-tuning, 73.1 linear probing (Table 1e, `paper`).

With flip.
Run: bash tools/dist_train.sh configs/ablation/augmentation/crop_fixed.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='mae_mm.LoadRandomCrop', size={{_base_.model.backbone.img_size}})]))
