"""ViTDet on COCO, ViT-B/16, with a simple feature pyramid and LayerNorm (arXiv:2203.16527, Table 5, `paper`).

Data, windows and relative positions are those of the parent. Biases and relative positions decay (`release`).
Run: bash tools/dist_train.sh configs/detection/vitdet_b_coco.py 32 --pretrained CHECKPOINT    # 32 GPUs x 2 images
"""
_base_ = './mask_rcnn_vit_b_coco.py'
norm = dict(_delete_=True, type='mae_mm.LayerNorm2d', eps=1e-6)
model = dict(
    backbone=dict(out_indices=(11, )),
    neck=dict(_delete_=True, type='mae_mm.SimplePyramid', embed_dim=768),
    roi_head=dict(bbox_head=dict(norm_cfg=norm), mask_head=dict(norm_cfg=norm)))
optim_wrapper = dict(
    optimizer=dict(lr=1e-4), paramwise_cfg=dict(layer_decay_rate=0.7, decayed='all_but_norms'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=250),
    dict(type='MultiStepLR', by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
del norm
