"""MAE pre-training, ViT-B/16, 800 epochs, cross-attention decoder (idea of arXiv:2401.14391) (`ours`).

No number is published. The decoder predicts a third of the masked patches, each independently: docs/performance.md.
Run: bash tools/dist_train.sh configs/pretrain/vit_b16_800e_cross.py 64    # 64 GPUs x 64 images
"""
_base_ = '../mae_pretrain.py'
model = dict(neck=dict(type='mae_mm.CrossDecoder', predict_ratio=1 / 3))
