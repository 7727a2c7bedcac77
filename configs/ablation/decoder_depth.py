"""Decoder depth (MAE, Table 1a).

Run: python tools/ablate.py configs/ablation/decoder_depth.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/decoder_depth.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Decoder depth, blocks'
source = 'Table 1a'
rows = {
    '01': dict(title='Decoder of 1 block', finetune=84.8, linear=65.5, options={'model.neck.depth': 1}),
    '02': dict(title='Decoder of 2 blocks', finetune=84.9, linear=70.0, options={'model.neck.depth': 2}),
    '04': dict(title='Decoder of 4 blocks', finetune=84.9, linear=71.9, options={'model.neck.depth': 4}),
    '08': dict(title='Decoder of 8 blocks', finetune=84.9, linear=73.5, options={'model.neck.depth': 8}),
    '12': dict(title='Decoder of 12 blocks', finetune=84.4, linear=73.3, options={'model.neck.depth': 12}),
}
