"""Linear probing on ImageNet-1K, ViT-L/16 (MAE, appendix A.1, Table 10).

Run: bash tools/dist_train.sh configs/linear/vit_l16_in1k.py 32 --pretrained CHECKPOINT    # 32 GPUs x 512 images
"""
_base_ = './vit_b16_in1k.py'
model = dict(backbone=dict(arch='large'), neck=dict(input_features=1024), head=dict(in_channels=1024))
train_cfg = dict(max_epochs=50)  # `release`
