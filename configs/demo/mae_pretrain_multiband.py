"""MAE pre-training on 6 bands of 16 bits at demo scale: 48-px crops, patch 8 (`ours`).

Any three bands of these images say nothing about their classes, four and more do (docs/demo_data.md).
Run:  python tools/make_demo_data.py --multiband; python tools/train.py configs/demo/mae_pretrain_multiband.py
"""
_base_ = 'mae_pretrain.py'
load = dict(dtype='uint16', bands=6)
model = dict(
    data_preprocessor=dict(  # python tools/pixel_statistics.py data/demo_multiband/train
        mean=[20014, 19984, 19995, 20054, 19952, 20046], std=[2470, 2415, 2494, 2477, 2457, 2474]),
    backbone=dict(in_chans=['blue', 'green', 'red', 'nir', 'swir1', 'swir2']))
train_dataloader = dict(dataset=dict(
    data_root='data/demo_multiband/train', extensions=['.npy'],
    pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=48, scale=(0.2, 1.0), **load)]))
val_dataloader = dict(dataset=dict(
    data_root='data/demo_multiband/val', extensions=['.npy'],
    pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=48, **load)]))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=80, val_interval=20)
custom_hooks = [dict(type='mae_mm.PanelHook'), dict(type='mae_mm.SummaryHook')]
del load
