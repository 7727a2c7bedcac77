"""Masking ratio (MAE, Figure 5).

The paper gives the numbers of two points in its text; the others are in the figure only.
Run: python tools/ablate.py configs/ablation/mask_ratio.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/mask_ratio.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Masking ratio'
source = 'Fig. 5'
axis = 'masking ratio, %'
rows = {
    '10': dict(title='10 % masked', linear=54.6, options={'model.mask_ratio': 0.1}),
    '20': dict(title='20 % masked', options={'model.mask_ratio': 0.2}),
    '30': dict(title='30 % masked', options={'model.mask_ratio': 0.3}),
    '40': dict(title='40 % masked', options={'model.mask_ratio': 0.4}),
    '50': dict(title='50 % masked', options={'model.mask_ratio': 0.5}),
    '60': dict(title='60 % masked', options={'model.mask_ratio': 0.6}),
    '70': dict(title='70 % masked', options={'model.mask_ratio': 0.7}),
    '75': dict(title='75 % masked', finetune=84.9, linear=73.5, options={'model.mask_ratio': 0.75}),
    '80': dict(title='80 % masked', options={'model.mask_ratio': 0.8}),
    '90': dict(title='90 % masked', options={'model.mask_ratio': 0.9}),
}
