"""ViTDet on COCO, ViT-H, for 75 epochs (arXiv:2203.16527, Table 5, `paper`).

MAE's ViT-H has patches of 14 px: `--pretrained` resamples the patch embedding to 16. Everything decays (`release`).
Run: bash tools/dist_train.sh configs/detection/vitdet_h_coco.py 64 --pretrained CHECKPOINT    # 64 GPUs x 1 image
"""
_base_ = './vitdet_b_coco.py'
model = dict(backbone=dict(arch='huge', out_indices=(31, ), drop_path_rate=0.5), neck=dict(embed_dim=1280))
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9, decayed='all'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=250),
    dict(type='MultiStepLR', by_epoch=False, milestones=[122916, 133159], gamma=0.1),
]
train_cfg = dict(max_iters=138281)
