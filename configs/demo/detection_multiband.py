"""Mask R-CNN on 6 bands of 16 bits at demo scale: 4 categories, 64 px, patch 8 (`ours`).

Run: python tools/train.py configs/demo/detection_multiband.py --pretrained CHECKPOINT
"""
_base_ = 'detection.py'
classes = ('oak', 'pine', 'maize', 'reed')
model = dict(
    data_preprocessor=dict(
        _delete_=True, type='mae_mm.ImagePreprocessor', mean=[20014, 19984, 19995, 20054, 19952, 20046],
        std=[2470, 2415, 2494, 2477, 2457, 2474],
        host=dict(type='mmdet.DetDataPreprocessor', pad_mask=True, pad_size_divisor=64)),
    backbone=dict(in_chans=['blue', 'green', 'red', 'nir', 'swir1', 'swir2']),
    roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)))
train_pipeline = [dict(type='mae_mm.LoadImage', bands=6), *_base_.train_pipeline[1:]]
test_pipeline = [dict(type='mae_mm.LoadImage', bands=6), *_base_.test_pipeline[1:]]
data = dict(data_root='data/demo_multiband', metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(
    **data, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    **data, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/demo_multiband/annotations/instances_val.json')
test_evaluator = val_evaluator
# The first blocks have to tell spectra apart, too; at 1e-3 the heads learn where objects are, not what they are.
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
del data
