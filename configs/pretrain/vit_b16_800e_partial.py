"""MAE pre-training, ViT-B/16, 800 epochs, the decoder predicts a third of the masked patches (`ours`).

No number is published. The decoder gets 99 tokens in place of 197: docs/performance.md.
Run: bash tools/dist_train.sh configs/pretrain/vit_b16_800e_partial.py 64    # 64 GPUs x 64 images
"""
_base_ = '../mae_pretrain.py'
model = dict(neck=dict(type='mae_mm.PartialDecoder', predict_ratio=1 / 3))
