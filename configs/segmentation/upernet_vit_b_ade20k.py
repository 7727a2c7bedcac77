"""UperNet on ADE20K, ViT-B/16 (MAE, appendix A.4; public reproduction: mmsegmentation, configs/mae).

The complete parent of every segmentation recipe. Data set, its augmentation and UperNet are mmseg's. 512 px, batch 16,
160k iterations (100 epochs) and relative position bias, in transfer only and zero at the start: `paper`. lr, weight
decay, layer decay, drop path, warm-up, poly, taps, slide inference: `reproduced`.
Differs from the reproduction: no LayerScale, GroupNorm in place of BatchNorm in the adapter, and bfloat16.
Run:  bash tools/dist_train.sh configs/segmentation/upernet_vit_b_ade20k.py 8 --pretrained CHECKPOINT   # 8 x 2 images
      … --cfg-options model.test_cfg.mode=whole    # the image at once instead of windows of 512 px
Test: python tools/test.py configs/segmentation/upernet_vit_b_ade20k.py \
          work_dirs/segmentation/upernet_vit_b_ade20k/iter_160000.pth
"""
_base_ = [
    'mmseg::_base_/models/upernet_mae.py', 'mmseg::_base_/datasets/ade20k.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mae_mm.checkpoint.allow'], allow_failed_imports=False)  # for hosts' own tools

data_preprocessor = None  # mmseg's copy of the model's would overwrite it in the multi-scale test
model = dict(
    data_preprocessor=dict(size=(512, 512), test_cfg=dict(size_divisor=16)),  # pads to full patches
    backbone=dict(
        _delete_=True, type='mae_mm.ViT', arch='base', img_size=512, patch_size=16, out_type='featmap',
        out_indices=(3, 5, 7, 11), drop_path_rate=0.1, rel_pos=True),
    neck=dict(_delete_=True, type='mae_mm.FourTapPyramid', embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=768, num_classes=150, norm_cfg=dict(type='BN')),
    auxiliary_head=dict(in_channels=768, num_classes=150, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
sync_bn = 'torch'  # on several GPUs every BN becomes a SyncBN; one device, and CPU processes, keep BN

# mmseg's own, except that the data set alone states whether label 0 is a class: reduce_zero_label.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),  # after Resize: metrics are computed at the size of the original
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=2, num_workers=4, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# Six scales of the test size, and their mirror images (`ours`); for the derived configs *_ms.py.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(int(2048 * r), int(512 * r)), keep_ratio=True) for r in _base_.img_ratios],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]),
]

optim_wrapper = dict(
    type='mae_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='mae_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500),
]

train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=16000, max_keep_ckpts=1, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'))
randomness = dict(seed=0, diff_rank_seed=True)
