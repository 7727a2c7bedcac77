"""A third of the masked patches, cross-attention: the paper does not have it (arXiv:2401.14391).

Run: bash tools/dist_train.sh configs/ablation/decoder/cross.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(type='mae_mm.CrossDecoder', predict_ratio=1 / 3))
