"""Partial fine-tuning of all 24 blocks is fine-tuning, ViT-L/16: 84.9 top-1 (Table 1, raw pixels, `paper`)."""
_base_ = '../classification/vit_l16_in1k.py'
