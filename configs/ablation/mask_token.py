"""Mask tokens in the encoder (MAE, Table 1c): 3.3 times the FLOPs (`paper`).

Run: python tools/ablate.py configs/ablation/mask_token.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/mask_token.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Mask tokens in the encoder'
source = 'Table 1c'
rows = dict(
    with_m=dict(title='Mask tokens in the encoder', finetune=84.2, linear=59.6, options={'model.mask_token': True}),
    visible=dict(title='No mask token in the encoder', finetune=84.9, linear=73.5,
                 options={'model.mask_token': False}))
