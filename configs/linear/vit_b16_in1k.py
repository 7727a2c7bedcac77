"""Linear probing on ImageNet-1K, ViT-B/16 (MAE, appendix A.1, Table 10).

A BatchNorm without affine and a linear layer on the frozen class token. Augmentation is a random crop (`paper`; drawn
once as in the release) and a flip (`release`), by the transforms of pre-training, which deliver RGB. mmpretrain's LARS
differs: see docs/classification.md.
Run:  bash tools/dist_train.sh configs/linear/vit_b16_in1k.py 32 --pretrained CHECKPOINT    # 32 GPUs x 512 images
Cost: 32 V100 x 2 h 20 min (`release`).
"""
_base_ = '../classification/vit_b16_in1k.py'
data_preprocessor = dict(to_rgb=False)
model = dict(
    backbone=dict(out_type='cls_token', drop_path_rate=0.0, tuned_blocks=0),
    neck=dict(type='ClsBatchNormNeck', input_features=768),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss'), init_cfg=dict(std=0.01)),  # `release`
    train_cfg=None)
train_pipeline = [
    dict(type='mae_mm.LoadRandomResizedCrop', size=224, scale=(0.08, 1.0), retries=1),  # `release`
    dict(type='PackInputs', input_key='inputs')]
test_pipeline = [
    dict(type='mae_mm.LoadResizeCenterCrop', size=224, resize=256), dict(type='PackInputs', input_key='inputs')]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=512, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(
    _delete_=True,
    type='mae_mm.AutocastOptimWrapper',
    optimizer=dict(type='mae_mm.LARS', lr=0.1 * 16384 / 256, momentum=0.9, weight_decay=0.0),
    constructor='mae_mm.LayerDecayOptimWrapperConstructor')
auto_scale_lr = dict(base_batch_size=16384)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=10, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=90)
