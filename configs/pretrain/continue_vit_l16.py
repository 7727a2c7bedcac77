"""Continue the pre-training of a ViT-L/16 on own images, as continue_vit_b16.py does (`ours`).

Run: python tools/train.py configs/pretrain/continue_vit_l16.py --data PHOTOS \
         --pretrained mae_pretrain_vit_large_full.pth
"""
_base_ = './continue_vit_b16.py'
model = dict(backbone=dict(arch='large'))
