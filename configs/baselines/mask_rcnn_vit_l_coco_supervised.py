"""Mask R-CNN on COCO, ViT-L/16, from supervised weights on ImageNet-1K: 49.3/43.9 box/mask AP (Table 4, `paper`).

The recipe of configs/detection/mask_rcnn_vit_l_coco.py; the start is what
configs/classification/vit_l16_in1k_scratch.py makes, or any supervised ViT of timm.
Run: bash tools/dist_train.sh configs/baselines/mask_rcnn_vit_l_coco_supervised.py 64 \
         --pretrained work_dirs/classification/vit_l16_in1k_scratch/epoch_200.pth
"""
_base_ = '../detection/mask_rcnn_vit_l_coco.py'
