"""Crop of random size: 84.9 fine-tuning, 73.5 linear probing (Table 1e, `paper`).

With flip.
Run: bash tools/dist_train.sh configs/ablation/augmentation/crop_random.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='mae_mm.LoadRandomResizedCrop', size={{_base_.model.backbone.img_size}}, scale=(0.2, 1.0))]))
