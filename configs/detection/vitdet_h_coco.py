"""ViTDet on COCO, ViT-H: box/mask AP 56.7/50.2 from MAE, 1600 epochs (arXiv:2203.16527, Tables 4 and 5, `paper`).

MAE's ViT-H has patches of 14 px; the patch embedding of the checkpoint is resampled to 16.
Run: bash tools/dist_train.sh configs/detection/vitdet_h_coco.py 64 --pretrained CHECKPOINT    # 64 GPUs x 1 image
"""
_base_ = './vitdet_b_coco.py'
model = dict(backbone=dict(arch='huge', out_indices=(31, ), drop_path_rate=0.5), neck=dict(embed_dim=1280))
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
# 75 epochs: three quarters of the schedule.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=250),
    dict(type='MultiStepLR', by_epoch=False, milestones=[122916, 133159], gamma=0.1),
]
train_cfg = dict(max_iters=138281)
