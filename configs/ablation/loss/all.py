"""Loss on all patches: 84.4 fine-tuning (section 4.1, `paper`).

Run: bash tools/dist_train.sh configs/ablation/loss/all.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
model = dict(loss_on='all')
