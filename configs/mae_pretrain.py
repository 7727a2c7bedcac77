"""MAE pre-training, ViT-B/16, ImageNet-1K, 800 epochs (MAE, appendix A.1, Table 8; every value `paper`).

The complete parent of every pre-training recipe.
Run: python tools/train.py configs/mae_pretrain.py                       # one device, lr scaled to its batch
     bash tools/dist_train.sh configs/mae_pretrain.py 8                  # 8 GPUs of one machine
Own images: python tools/train.py configs/mae_pretrain.py --data PHOTOS
Cost: ViT-L, 800 epochs: about 42 hours on 64 V100 (`release`).
"""
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mae_mm.checkpoint.allow'], allow_failed_imports=False)  # for hosts' own tools

model = dict(
    type='mae_mm.MAE',
    data_preprocessor=dict(
        type='mae_mm.ImagePreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type='mae_mm.ViT', arch='base', img_size=224, patch_size=16),
    neck=dict(type='mae_mm.MAEDecoder', embed_dim=512, depth=8, num_heads=16),
    mask_ratio=0.75,
    norm_pix_loss=True)

# Any folder of images, flat or nested; class folders are not used.
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mae_mm.ImageFolder',
        data_root='data/imagenet/train',
        pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=224, scale=(0.2, 1.0))]))
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mae_mm.ImageFolder',
        data_root='data/imagenet/val',
        test_mode=True,
        pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=224)]))
val_evaluator = dict(type='mae_mm.ReconstructionMetric')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# lr = base lr * batch / 256, scaled to the batch of the run; gradients are averaged in float32.
# Weight decay leaves out biases, norms, the position table, cls_token and mask_token; the release decays both tokens.
optim_wrapper = dict(
    type='mae_mm.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='mae_mm.LayerDecayOptimWrapperConstructor')
auto_scale_lr = dict(base_batch_size=4096, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=40, convert_to_iter_based=True),
]

# Can be stopped anywhere and resumed, to the same bits: docs/reliability.md.
train_cfg = dict(type='mae_mm.EpochTrainLoop', max_epochs=800, val_interval=20)
val_cfg = dict(type='mae_mm.ValLoop')
test_cfg = dict()

default_hooks = dict(
    runtime_info=dict(type='mae_mm.RuntimeInfoHook'),
    timer=dict(type='mae_mm.IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mae_mm.CheckpointHook', interval=1, max_keep_ckpts=3),
    preemption=dict(type='mae_mm.PreemptionHook'),
    nonfinite=dict(type='mae_mm.NonFiniteHook'),
    bad_data=dict(type='mae_mm.BadDataHook'),
    fingerprints=dict(type='mae_mm.FingerprintHook'))
custom_hooks = [dict(type='mae_mm.PanelHook'), dict(type='mae_mm.SummaryHook')]
# Numbers of training are means over an interval already (mae_mm.RuntimeInfoHook).
log_processor = dict(by_epoch=True, window_size=1, mean_pattern=r'^(?!.*recon/).*(loss|time|grad_norm)')
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
# Several processes: every step uses the same parameters in the same order, and there are no buffers to tell.
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, static_graph=True, gradient_as_bucket_view=True)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
randomness = dict(seed=0, diff_rank_seed=True)
