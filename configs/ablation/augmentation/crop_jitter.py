"""Crop of random size and colour jitter: 84.3 fine-tuning, 71.9 linear probing (Table 1e, `paper`).

The strength of the jitter is `ours`: the paper does not say.
Run: bash tools/dist_train.sh configs/ablation/augmentation/crop_jitter.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='mae_mm.LoadRandomResizedCrop', size={{_base_.model.backbone.img_size}}, scale=(0.2, 1.0)),
    dict(type='mae_mm.ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)]))
