"""PCA, the 96 largest coefficients of patches: 84.6 fine-tuning, 72.3 linear probing (Table 1d, `paper`).

First: python tools/fit_pca.py configs/ablation/target/pca.py --out work_dirs/pca.pth (tools/ablate.py does it).
Run: bash tools/dist_train.sh configs/ablation/target/pca.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(target=dict(type='mae_mm.PCATarget', num_values=96, fitted='work_dirs/pca.pth'))
