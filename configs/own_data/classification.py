"""Fine-tuning on labelled images of your own: what `tools/transfer.py --data` trains from every start (`ours`).

The tool fills in classes, images, encoder, size, rate and length, and writes each complete config beside its results.
Run: python tools/transfer.py CHECKPOINT --data LABELLED --out report
"""
_base_ = '../classification/vit_b16_in1k.py'
data_preprocessor = dict(to_rgb=False)
model = dict(backbone=dict(drop_path_rate=0.1), train_cfg=None)
train_dataloader = dict(
    batch_size=32, num_workers=0, persistent_workers=False, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(_delete_=True, type='CustomDataset', pipeline=[
        dict(type='mae_mm.LoadRandomResizedCrop', size=224, scale=(0.25, 1.0)),
        dict(type='PackInputs', input_key='inputs')]))
val_dataloader = dict(
    batch_size=32, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, type='CustomDataset', pipeline=[
        dict(type='mae_mm.LoadResizeCenterCrop', size=224),
        dict(type='PackInputs', input_key='inputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
# 1e-3 for a batch of 32, which the tool multiplies by 1/3, 1 and 3.
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30),
]
train_cfg = dict(_delete_=True, type='mae_mm.IterTrainLoop', max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=50), checkpoint=None)
log_processor = dict(by_epoch=False)
