"""Detection in images of your own: what `tools/transfer.py --data` trains from every start (`ours`).

Mask R-CNN with light heads, as in the demo, without masks where the annotations have none. The tool fills in classes,
images, encoder, size, rate and length, and writes each complete config beside its results.
Run: python tools/transfer.py CHECKPOINT --data LABELLED --out report    # with configs/own_data/detection.py
"""
_base_ = '../demo/detection.py'
pipeline = dict(_delete_=True, type='CocoDataset', data_prefix=dict(img=''))
train_dataloader = dict(
    drop_last=False,  # the endless sampler fills every batch, also of fewer images
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**pipeline, pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(**pipeline, test_mode=True, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=None)
del pipeline
