"""Mask R-CNN on COCO, ViT-B/16, with the MAE paper's adapter and recipe, which is that of Li et al., arXiv:2111.11429.

The complete parent of every detection recipe. Values without a tag are `paper`: Li et al.
Run:  bash tools/dist_train.sh configs/detection/mask_rcnn_vit_b_coco.py 32 --pretrained CHECKPOINT    # 32 GPUs x 2
      … --cfg-options model.backbone.checkpointing=True                                    # less memory, equal results
Test: python tools/test.py CONFIG CHECKPOINT
"""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mae_mm.checkpoint.allow'], allow_failed_imports=False)  # for hosts' own tools

norm = dict(type='BN')
sync_bn = 'torch'  # on several GPUs every BN becomes a SyncBN; one device, and CPU processes, keep BN
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # in training and testing always 1024 x 1024; 32 for other sizes
    # Windows of 14 tokens in all blocks but the four taps. bfloat16 where the device has it (`ours`), in the ViT alone:
    # mmcv's nms and RoIAlign do not accept it.
    backbone=dict(
        _delete_=True, type='mae_mm.ViT', arch='base', img_size=1024, patch_size=16, out_type='featmap',
        out_indices=(2, 5, 8, 11), drop_path_rate=0.1, window_size=14, rel_pos=True, bf16='auto'),
    neck=[
        dict(type='mae_mm.FourTapPyramid', embed_dim=768),
        dict(type='FPN', in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5, norm_cfg=norm),
    ],
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm),
        mask_head=dict(norm_cfg=norm)))
del norm

# Large-scale jitter.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(1024, 1024), recompute_bbox=True,
         allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2, num_workers=4, drop_last=True, batch_sampler=None, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# lr for the batch of the run: published for 64 images. No layer decay.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-5, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    constructor='mae_mm.LayerDecayOptimWrapperConstructor')
auto_scale_lr = dict(base_batch_size=64, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=461),  # a quarter of an epoch
    dict(type='CosineAnnealingLR', by_epoch=False, begin=461),
]
# 100 epochs of batch 64.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=184375, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=1, save_best='coco/bbox_mAP'))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0, diff_rank_seed=True)
