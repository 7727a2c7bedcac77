"""Reconstruction targets (MAE, Table 1d).

Row token: add --tokenizer FILE, the weights of the DALL-E encoder that mmpretrain publishes for BEiT. Row pca: its
components are fitted first; for its config alone: python tools/fit_pca.py CONFIG --out work_dirs/pca.pth
Run: python tools/ablate.py configs/ablation/target.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/target.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Reconstruction target'
source = 'Table 1d'
rows = dict(
    pixel=dict(title='Pixels, as they are', finetune=84.9, linear=73.5, options={'model.norm_pix_loss': False}),
    pixel_norm=dict(title='Pixels, normalised patch by patch', finetune=85.4, linear=73.9,
                    options={'model.norm_pix_loss': True}),
    pca=dict(title='PCA, the 96 largest coefficients of patches', finetune=84.6, linear=72.3, options={
        'model.target': dict(type='mae_mm.PCATarget', num_values=96, fitted='work_dirs/pca.pth')}),
    token=dict(title='Tokens of a dVAE', finetune=85.3, linear=71.6, options={
        'model.target': dict(type='mae_mm.TokenTarget', weights='weights/dalle_encoder.pth')}))
