"""MAE pre-training on a few thousand images of one's own, on a laptop: ViT-Ti, 64-px crops, patch 8 (`ours`).

Run: python tools/train.py configs/own_data/mae_pretrain.py --data PHOTOS
Size: --cfg-options model.backbone.img_size=96 {train,val,test}_dataloader.dataset.pipeline.0.size=96
"""
_base_ = '../mae_pretrain.py'
model = dict(
    backbone=dict(arch='tiny', img_size=64, patch_size=8), neck=dict(embed_dim=128, depth=2, num_heads=4))
train_dataloader = dict(
    batch_size=32, num_workers=2,
    dataset=dict(cache='memory', cache_short_side=160, pipeline=[
        dict(type='mae_mm.LoadRandomResizedCrop', size=64, scale=(0.2, 1.0))]))
val_dataloader = dict(
    num_workers=1, dataset=dict(pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=64)]))
test_dataloader = val_dataloader
# For batches of 32, scaled to those of the run. Narrow models train well with it: docs/own_data.md.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=100, val_interval=10)
