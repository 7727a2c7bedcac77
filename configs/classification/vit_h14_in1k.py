"""Fine-tuning on ImageNet-1K, ViT-H/14 (MAE, appendix A.1, Table 9).

Run:  bash tools/dist_train.sh configs/classification/vit_h14_in1k.py 32 --pretrained CHECKPOINT   # 32 GPUs x 32 images
Cost: 64 V100 x 13 h 9 min (`release`).
"""
_base_ = './vit_l16_in1k.py'
# Drop path of the release, for normalised pixels; the paper (Table 9) has 0.2 for raw ones.
model = dict(backbone=dict(arch='huge', patch_size=14, drop_path_rate=0.3), head=dict(in_channels=1280))
train_dataloader = dict(batch_size=32)
