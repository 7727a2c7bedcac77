"""Fine-tuning on ImageNet-1K, ViT-L/16 (MAE, appendix A.1, Table 9).

Run:  bash tools/dist_train.sh configs/classification/vit_l16_in1k.py 16 --pretrained CHECKPOINT   # 16 GPUs x 64 images
Cost: 32 V100 x 8 h 52 min (`release`).
"""
_base_ = './vit_b16_in1k.py'
# Drop path of the release, for normalised pixels; the paper (Table 9) has 0.1 for raw ones.
model = dict(backbone=dict(arch='large', drop_path_rate=0.2), head=dict(in_channels=1024))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=1e-3 * 1024 / 256), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, convert_to_iter_based=True, eta_min_ratio=1e-6 / 4e-3),
]
train_cfg = dict(max_epochs=50)
