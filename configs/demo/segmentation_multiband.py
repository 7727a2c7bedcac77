"""UperNet on 6 bands of 16 bits at demo scale: the ground and 4 classes, 64 px, patch 8 (`ours`).

Run: python tools/train.py configs/demo/segmentation_multiband.py --pretrained CHECKPOINT
"""
_base_ = 'segmentation.py'
metainfo = dict(
    classes=['ground', 'oak', 'pine', 'maize', 'reed'],
    palette=[[120, 100, 80], [30, 140, 30], [20, 80, 60], [240, 210, 60], [130, 180, 220]])
class_weight = [0.2, 1.0, 1.0, 1.0, 1.0]  # most pixels are ground, which any three bands tell from the rest
model = dict(
    data_preprocessor=dict(
        mean=[20014, 19984, 19995, 20054, 19952, 20046], std=[2470, 2415, 2494, 2477, 2457, 2474], bgr_to_rgb=False),
    backbone=dict(in_chans=['blue', 'green', 'red', 'nir', 'swir1', 'swir2']),
    decode_head=dict(num_classes=5, loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(num_classes=5, loss_decode=dict(class_weight=class_weight)))
train_pipeline = [
    dict(type='mae_mm.LoadImage', bands=6),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(256, 64), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='mae_mm.LoadImage', bands=6), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
data = dict(
    _delete_=True, type='BaseSegDataset', data_root='data/demo_multiband', metainfo=metainfo, img_suffix='.npy',
    seg_map_suffix='.png', reduce_zero_label=False)
train_dataloader = dict(dataset=dict(
    **data, data_prefix=dict(img_path='train', seg_map_path='labels/train'), pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    **data, data_prefix=dict(img_path='val', seg_map_path='labels/val'), pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))  # the first blocks have to tell spectra apart, too
train_cfg = dict(max_iters=700, val_interval=700)
default_hooks = dict(checkpoint=dict(interval=700))
del data, class_weight
