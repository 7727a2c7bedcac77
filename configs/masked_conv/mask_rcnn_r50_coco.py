"""A ResNet-50 of masked pre-training in Mask R-CNN on COCO, by mmdet's own 1x recipe.

Nothing is frozen, and BatchNorm is trained, synchronised across GPUs: its statistics are not those of a classifier.
Run: bash tools/dist_train.sh configs/masked_conv/mask_rcnn_r50_coco.py 8 --pretrained CHECKPOINT    # 8 GPUs x 2 images
"""
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
default_scope = 'mmdet'
model = dict(backbone=dict(
    frozen_stages=-1, norm_eval=False, norm_cfg=dict(type='SyncBN', requires_grad=True), init_cfg=None))
