"""Mask R-CNN on COCO, ViT-L/16, with the MAE paper's adapter and recipe (Li et al., arXiv:2111.11429, `paper`).

Run: bash tools/dist_train.sh configs/detection/mask_rcnn_vit_l_coco.py 64 --pretrained CHECKPOINT   # 64 GPUs x 1 image
"""
_base_ = './mask_rcnn_vit_b_coco.py'
model = dict(
    backbone=dict(arch='large', out_indices=(5, 11, 17, 23), drop_path_rate=0.3),
    neck=[dict(type='mae_mm.FourTapPyramid', embed_dim=1024), {**_base_.model.neck[1], 'in_channels': [1024] * 4}])
train_dataloader = dict(batch_size=1)
