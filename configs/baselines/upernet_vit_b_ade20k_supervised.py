"""UperNet on ADE20K, ViT-B/16, from supervised weights on ImageNet-1K: 47.4 mIoU (Table 5, `paper`).

The recipe of configs/segmentation/upernet_vit_b_ade20k.py; the start is what
configs/classification/vit_b16_in1k_scratch.py makes, or any supervised ViT of timm.
Run: bash tools/dist_train.sh configs/baselines/upernet_vit_b_ade20k_supervised.py 8 \
         --pretrained work_dirs/classification/vit_b16_in1k_scratch/epoch_300.pth
"""
_base_ = '../segmentation/upernet_vit_b_ade20k.py'
