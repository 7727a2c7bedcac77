"""A ResNet-50 of masked pre-training on ImageNet-1K, by mmpretrain's own recipe.

Run: bash tools/dist_train.sh configs/masked_conv/finetune_r50_in1k.py 8 --pretrained CHECKPOINT    # 8 GPUs x 32 images
From scratch: the same command without --pretrained.
"""
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
default_scope = 'mmpretrain'
# As in pre-training: RGB.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
