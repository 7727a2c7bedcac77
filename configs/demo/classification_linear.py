"""Linear probing at demo scale: frozen class token, BatchNorm, linear layer, LARS (`ours`).

Run: python tools/train.py configs/demo/classification_linear.py --pretrained CHECKPOINT
"""
_base_ = './classification.py'
model = dict(
    backbone=dict(out_type='cls_token', drop_path_rate=0.0, tuned_blocks=0),
    neck=dict(type='ClsBatchNormNeck', input_features=192),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss'), init_cfg=dict(std=0.01)))
optim_wrapper = dict(
    _delete_=True,
    type='mae_mm.AutocastOptimWrapper',
    optimizer=dict(type='mae_mm.LARS', lr=20.0, momentum=0.9, weight_decay=0.0),
    constructor='mae_mm.LayerDecayOptimWrapperConstructor')
