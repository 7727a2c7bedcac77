"""ViTDet on COCO, ViT-B/16: box/mask AP 51.6/45.9 from MAE, 1600 epochs (arXiv:2203.16527, Tables 4 and 5, `paper`).

The simple feature pyramid of the last map, an RPN of two convolutions, a box head of four convolutions and one linear
layer, LayerNorm in the heads (appendix A.2); schedule, data, windows and relative positions as in the parent.
Run: bash tools/dist_train.sh configs/detection/vitdet_b_coco.py 32 --pretrained CHECKPOINT    # 32 GPUs x 2 images
"""
_base_ = './mask_rcnn_vit_b_coco.py'
norm = dict(type='mae_mm.LayerNorm2d', eps=1e-6)
model = dict(
    backbone=dict(out_indices=(11, )),
    neck=dict(_delete_=True, type='mae_mm.SimplePyramid', embed_dim=768),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm),
        mask_head=dict(norm_cfg=norm)))
del norm
