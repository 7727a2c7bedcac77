"""Mask R-CNN at demo scale: 12 categories, 64 px, patch 8, ViTDet's pyramid without windows, light heads (`ours`).

No finest scale of the pyramid, one sample in each bin of RoIAlign, 16 boxes for each image and light heads leave time
for more images. Boxes and masks do not depend on the class. The heads of Li et al. were tried: docs/detection.md.
Run: make demo-detection PRETRAINED=CHECKPOINT    # beside a random start, two seeds, about 20 minutes on 2 cores
     python tools/train.py configs/demo/detection.py --pretrained CHECKPOINT
"""
_base_ = '../detection/mask_rcnn_vit_b_coco.py'
classes = (
    'star_stripes', 'star_dots', 'fish_dots', 'fish_rings', 'leaf_rings', 'leaf_zigzag', 'vase_zigzag', 'vase_checks',
    'mushroom_checks', 'mushroom_patches', 'gear_patches', 'gear_stripes')
strides = [4, 8, 16]
norm = dict(_delete_=True, type='mae_mm.LayerNorm2d', eps=1e-6)  # without norms, the mask head dies early
model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=192, depth=6, num_heads=3), img_size=64, patch_size=8,
        out_indices=(5, ), drop_path_rate=0.0, window_size=0, rel_pos=False),
    neck=dict(_delete_=True, type='mae_mm.SimplePyramid', embed_dim=192, out_channels=64, scale_factors=(2, 1, 0.5)),
    rpn_head=dict(
        num_convs=1, in_channels=64, feat_channels=64,
        anchor_generator=dict(scales=[4], strides=[*strides, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64, featmap_strides=strides, finest_scale=14, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='Shared2FCBBoxHead', norm_cfg=None, in_channels=64, fc_out_channels=256, num_classes=12,
            reg_class_agnostic=True),
        mask_roi_extractor=dict(
            out_channels=64, featmap_strides=strides, finest_scale=14, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            in_channels=64, conv_out_channels=32, num_classes=12, class_agnostic=True, norm_cfg=norm)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=16, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(64, 64), recompute_bbox=True,
         allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='data/demo/coco', metainfo=dict(classes=classes), pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root='data/demo/coco', metainfo=dict(classes=classes), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/demo/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05), paramwise_cfg=dict(layer_decay_rate=0.85))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100),
]
train_cfg = dict(max_iters=1700, val_interval=1700)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1700))
del classes, strides, norm
