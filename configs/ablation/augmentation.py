"""Augmentation in pre-training (MAE, Table 1e).

Crops are flipped, the centre crop is not. The strength of the colour jitter is `ours`: the paper does not state it.
Run: python tools/ablate.py configs/ablation/augmentation.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/augmentation.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Augmentation'
source = 'Table 1e'
size = '{{_base_.model.backbone.img_size}}'
rows = dict(
    none=dict(title='No augmentation', finetune=84.0, linear=65.7, options={'train_dataloader.dataset.pipeline': [
        dict(type='mae_mm.LoadResizeCenterCrop', size=size)]}),
    crop_fixed=dict(title='Crop of fixed size', finetune=84.7, linear=73.1, options={
        'train_dataloader.dataset.pipeline': [dict(type='mae_mm.LoadRandomCrop', size=size)]}),
    crop_random=dict(title='Crop of random size', finetune=84.9, linear=73.5, options={
        'train_dataloader.dataset.pipeline': [
            dict(type='mae_mm.LoadRandomResizedCrop', size=size, scale=(0.2, 1.0))]}),
    crop_jitter=dict(title='Crop of random size and colour jitter', finetune=84.3, linear=71.9, options={
        'train_dataloader.dataset.pipeline': [
            dict(type='mae_mm.LoadRandomResizedCrop', size=size, scale=(0.2, 1.0)),
            dict(type='mae_mm.ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)]}))
