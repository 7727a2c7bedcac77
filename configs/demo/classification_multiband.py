"""Fine-tuning on 6 bands of 16 bits at demo scale: 1,200 images of 4 classes, 48 px, patch 8 (`ours`).

Crops, scales and flips, no colour jitter: it would change what the classes are.
Run: python tools/train.py configs/demo/classification_multiband.py --pretrained CHECKPOINT
"""
_base_ = 'classification.py'
load = dict(dtype='uint16', bands=6)
classes = dict(classes=['oak', 'pine', 'maize', 'reed'])
data_preprocessor = dict(
    mean=[20014, 19984, 19995, 20054, 19952, 20046], std=[2470, 2415, 2494, 2477, 2457, 2474], num_classes=4)
model = dict(backbone=dict(in_chans=['blue', 'green', 'red', 'nir', 'swir1', 'swir2']), head=dict(num_classes=4))
train_pipeline = [
    dict(type='mae_mm.LoadRandomResizedCrop', size=48, scale=(0.5, 1.0), **load),
    dict(type='PackInputs', input_key='inputs')]
test_pipeline = [
    dict(type='mae_mm.LoadResizeCenterCrop', size=48, **load), dict(type='PackInputs', input_key='inputs')]
train_dataloader = dict(dataset=dict(
    _delete_=True, type='CustomDataset', data_root='data/demo_multiband', ann_file='meta/train.txt',
    data_prefix='train', metainfo=classes, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='CustomDataset', data_root='data/demo_multiband', ann_file='meta/val.txt', data_prefix='val',
    metainfo=classes, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
del load, classes
