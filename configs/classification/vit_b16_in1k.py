"""Fine-tuning on ImageNet-1K, ViT-B/16 (MAE, appendix A.1, Table 9).

The complete parent of every classification recipe. Data set and pipelines (RandAugment (9, 0.5), `paper`; random
erasing 0.25, `release`) are mmpretrain's. Values without a tag are `paper`; lr and layer decay are the release's for
normalised pixels, where the paper has 1e-3 and 0.75.
Run:  bash tools/dist_train.sh configs/classification/vit_b16_in1k.py 8 --pretrained CHECKPOINT   # 8 GPUs x 128 images
      … --cfg-options train_dataloader.batch_size=32 optim_wrapper.accumulative_counts=4   # less memory, same lr
Test: python tools/test.py configs/classification/vit_b16_in1k.py work_dirs/classification/vit_b16_in1k/epoch_100.pth
Cost: 32 V100 x 7 h 11 min (`release`).
"""
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mae_mm.checkpoint.allow'], allow_failed_imports=False)  # for hosts' own tools

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mae_mm.ViT', arch='base', img_size=224, patch_size=16, out_type='avg_featmap', drop_path_rate=0.1),
    head=dict(
        type='mae_mm.LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5)),  # `release`
    # One of the two for each batch of a process, with one mixing ratio for all of its images.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))

train_dataloader = dict(batch_size=128, num_workers=8, persistent_workers=True, pin_memory=True, drop_last=True)
val_dataloader = dict(batch_size=128, num_workers=4, persistent_workers=True, pin_memory=True)
test_dataloader = val_dataloader

# lr = base lr * batch / 256, scaled to the batch of the run.
optim_wrapper = dict(
    type='mae_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True),  # `release`
    constructor='mae_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.65))  # `release`
auto_scale_lr = dict(base_batch_size=1024, enable=True)
# Down to 1e-6, times each layer's decay (`release`).
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, convert_to_iter_based=True, eta_min_ratio=1e-6 / 2e-3),
]

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='accuracy/top1'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
randomness = dict(seed=0, diff_rank_seed=True)
