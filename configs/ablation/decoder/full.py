"""Every masked patch: 84.9 fine-tuning, 73.5 linear probing (Table 1a, `paper`).

Run: bash tools/dist_train.sh configs/ablation/decoder/full.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(neck=dict(type='mae_mm.MAEDecoder'))
