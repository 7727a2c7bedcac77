"""MAE on six bands that predicts whitened principal components of patches instead of pixels (`ours`).

The classes make up 0.2 % of the variance, which a loss of pixels neglects: docs/pixels.md compares both.
Run: python tools/make_demo_data.py --multiband
     python tools/fit_pca.py configs/demo/mae_pretrain_multiband_pca.py
     python tools/train.py configs/demo/mae_pretrain_multiband_pca.py
"""
_base_ = 'mae_pretrain_multiband.py'
model = dict(
    norm_pix_loss=False,
    target=dict(
        type='mae_mm.PCATarget', num_values=96, whiten=True, fitted='work_dirs/demo/mae_pretrain_multiband_pca.pth'))
