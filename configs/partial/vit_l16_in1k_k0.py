"""Partial fine-tuning of no block is linear probing, ViT-L/16: 73.5 top-1 (Table 1, raw pixels, `paper`)."""
_base_ = '../linear/vit_l16_in1k.py'
