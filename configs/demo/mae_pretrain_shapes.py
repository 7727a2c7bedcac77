"""MAE pre-training at demo scale on images of several shapes: square, wide and tall crops of 36 patches each (`ours`).

Run:  python tools/train.py configs/demo/mae_pretrain_shapes.py
Cost: about 4 minutes on 2 cores.
"""
_base_ = 'mae_pretrain.py'
crop_sizes = [(48, 48), (32, 72), (72, 32)]  # height, width
train_dataloader = dict(batch_sampler=dict(type='mae_mm.BucketBatchSampler'), dataset=dict(crop_sizes=crop_sizes))
val_dataloader = dict(batch_sampler=dict(type='mae_mm.BucketBatchSampler'), dataset=dict(crop_sizes=crop_sizes))
test_dataloader = val_dataloader
del crop_sizes
