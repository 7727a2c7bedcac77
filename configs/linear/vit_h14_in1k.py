"""Linear probing on ImageNet-1K, ViT-H/14 (MAE, appendix A.1, Table 10).

Run: bash tools/dist_train.sh configs/linear/vit_h14_in1k.py 32 --pretrained CHECKPOINT    # 32 GPUs x 512 images
"""
_base_ = './vit_l16_in1k.py'
model = dict(backbone=dict(arch='huge', patch_size=14), neck=dict(input_features=1280), head=dict(in_channels=1280))
