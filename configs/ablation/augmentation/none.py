"""No augmentation: 84.0 fine-tuning, 65.7 linear probing (Table 1e, `paper`).

The centre, not flipped.
Run: bash tools/dist_train.sh configs/ablation/augmentation/none.py 64    # 64 GPUs x 64 images
"""
_base_ = '../vit_l16.py'
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='mae_mm.LoadResizeCenterCrop', size={{_base_.model.backbone.img_size}})]))
