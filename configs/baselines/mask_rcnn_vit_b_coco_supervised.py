"""Mask R-CNN on COCO, ViT-B/16, from supervised weights on ImageNet-1K: 47.9/42.9 box/mask AP (Table 4, `paper`).

The recipe of configs/detection/mask_rcnn_vit_b_coco.py; the start is what
configs/classification/vit_b16_in1k_scratch.py makes, or any supervised ViT of timm.
Run: bash tools/dist_train.sh configs/baselines/mask_rcnn_vit_b_coco_supervised.py 32 \
         --pretrained work_dirs/classification/vit_b16_in1k_scratch/epoch_300.pth
"""
_base_ = '../detection/mask_rcnn_vit_b_coco.py'
