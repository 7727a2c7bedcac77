"""ViT-L/16 from scratch on ImageNet-1K (MAE, appendix A.2, Table 11, `paper`).

Run: bash tools/dist_train.sh configs/classification/vit_l16_in1k_scratch.py 64    # 64 GPUs x 64 images
"""
_base_ = './vit_b16_in1k_scratch.py'
model = dict(backbone=dict(arch='large', drop_path_rate=0.2), head=dict(in_channels=1024))
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_epochs=200)
