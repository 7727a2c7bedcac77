"""Segmentation of images of your own: what `tools/transfer.py --data` trains from every start (`ours`).

UperNet with light heads, as in the demo. The tool fills in classes, images, encoder, size, rate and length, and writes
each complete config beside its results.
Run: python tools/transfer.py CHECKPOINT --data LABELLED --out report    # with configs/own_data/segmentation.py
"""
_base_ = '../demo/segmentation.py'
metainfo = None
train_dataloader = dict(
    drop_last=False,  # the endless sampler fills every batch, also of fewer images
    dataset=dict(_delete_=True, type='mae_mm.ListedLabelMaps', pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(_delete_=True, type='mae_mm.ListedLabelMaps', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=None)
