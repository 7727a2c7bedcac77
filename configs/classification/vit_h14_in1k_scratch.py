"""ViT-H/14 from scratch on ImageNet-1K (MAE, appendix A.2, Table 11, `paper`).

Run: bash tools/dist_train.sh configs/classification/vit_h14_in1k_scratch.py 128    # 128 GPUs x 32 images
"""
_base_ = './vit_l16_in1k_scratch.py'
model = dict(backbone=dict(arch='huge', patch_size=14), head=dict(in_channels=1280))
train_dataloader = dict(batch_size=32)
