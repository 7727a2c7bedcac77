"""A third of the masked patches, self-attention: the paper does not have it (ours).

Run: bash tools/dist_train.sh configs/ablation/decoder/partial.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(type='mae_mm.PartialDecoder', predict_ratio=1 / 3))
