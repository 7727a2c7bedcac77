"""Mask sampling (MAE, Table 1f).

Run: python tools/ablate.py configs/ablation/sampling.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/sampling.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Mask sampling'
source = 'Table 1f'
rows = dict(
    random_75=dict(title='Random, 75 %', finetune=84.9, linear=73.5,
                   options={'model.mask_sampling': 'random', 'model.mask_ratio': 0.75}),
    block_50=dict(title='Block-wise, 50 %', finetune=83.9, linear=72.3,
                  options={'model.mask_sampling': 'block', 'model.mask_ratio': 0.5}),
    block_75=dict(title='Block-wise, 75 %', finetune=82.8, linear=63.9,
                  options={'model.mask_sampling': 'block', 'model.mask_ratio': 0.75}),
    grid_75=dict(title='Grid, 75 %', finetune=84.0, linear=66.0,
                 options={'model.mask_sampling': 'grid', 'model.mask_ratio': 0.75}))
