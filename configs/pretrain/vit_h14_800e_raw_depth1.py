"""MAE pre-training, ViT-H/14, 800 epochs, raw pixels, decoder of one block (Table 2, `paper`).

Run:  bash tools/dist_train.sh configs/pretrain/vit_h14_800e_raw_depth1.py 64    # 64 GPUs x 64 images
Cost: 29.3 hours on 128 TPU-v3 cores (`paper`).
"""
_base_ = './vit_h14_800e_raw.py'
model = dict(neck=dict(depth=1))
