"""Loss on the masked patches: 84.9 fine-tuning, 73.5 linear probing (Table 1, `paper`).

Run: bash tools/dist_train.sh configs/ablation/loss/masked.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(loss_on='masked')
