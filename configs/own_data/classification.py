"""Fine-tuning on labelled images of your own: what `tools/transfer.py --data` trains from every start (`ours`).

The tool fills in classes, images, encoder, size, rate and length, and writes each complete config beside its results.
Run: python tools/transfer.py CHECKPOINT --data LABELLED --out report    # with configs/own_data/classification.py
"""
_base_ = '../demo/classification.py'
model = dict(backbone=dict(drop_path_rate=0.1))
train_dataloader = dict(
    drop_last=False,  # the endless sampler fills every batch, also of fewer images
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(_delete_=True, type='CustomDataset', pipeline=_base_.train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(_delete_=True, type='CustomDataset', pipeline=[
    dict(type='mae_mm.LoadResizeCenterCrop', size=48), dict(type='PackInputs', input_key='inputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30)]
train_cfg = dict(_delete_=True, type='mae_mm.IterTrainLoop', max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=50), checkpoint=None)
log_processor = dict(by_epoch=False)
