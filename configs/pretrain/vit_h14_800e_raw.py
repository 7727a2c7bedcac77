"""MAE pre-training, ViT-H/14, 800 epochs, raw pixels, decoder of 8 blocks (Table 2, `paper`).

Run:  bash tools/dist_train.sh configs/pretrain/vit_h14_800e_raw.py 64    # 64 GPUs x 64 images
Cost: 34.5 hours on 128 TPU-v3 cores (`paper`).
"""
_base_ = './vit_h14_800e.py'
model = dict(norm_pix_loss=False)
