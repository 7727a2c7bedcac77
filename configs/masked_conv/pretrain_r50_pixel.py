"""Masked pre-training of a ResNet-50: each pixel hidden by itself (Bernoulli, p = 0.75), L1 on the hidden pixels.

Every value is `ours`; nobody has run this recipe on ImageNet.
Run: bash tools/dist_train.sh configs/masked_conv/pretrain_r50_pixel.py 8
"""
_base_ = './pretrain_r50.py'
model = dict(patch_size=1, mask_ratio=0.75, mask_sampling='pixel')
