"""Decoders that predict a third of the masked patches, not in the paper (docs/performance.md).

Run: python tools/ablate.py configs/ablation/decoder.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/decoder.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Decoders'
rows = dict(
    full=dict(title='Every masked patch', source='Table 1a', finetune=84.9, linear=73.5,
              options={'model.neck.type': 'mae_mm.MAEDecoder'}),
    partial=dict(title='A third of the masked patches, self-attention',
                 options={'model.neck.type': 'mae_mm.PartialDecoder', 'model.neck.predict_ratio': 1 / 3}),
    cross=dict(title='A third of the masked patches, cross-attention', source='arXiv:2401.14391',
               options={'model.neck.type': 'mae_mm.CrossDecoder', 'model.neck.predict_ratio': 1 / 3}))
