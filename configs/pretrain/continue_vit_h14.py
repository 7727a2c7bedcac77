"""Continue the pre-training of a ViT-H/14 on own images, as continue_vit_b16.py does (`ours`).

Run: python tools/train.py configs/pretrain/continue_vit_h14.py --data PHOTOS \
         --pretrained mae_pretrain_vit_huge_full.pth
"""
_base_ = './continue_vit_b16.py'
model = dict(backbone=dict(arch='huge', patch_size=14))
