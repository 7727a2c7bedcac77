"""MAE pre-training at demo scale: 48-px crops of the demo images, patch 8 (`ours`).

Run:  make demo
      python tools/make_demo_data.py --out data/demo; python tools/train.py configs/demo/mae_pretrain.py    # the same
Cost: about 4 minutes on 2 cores.
"""
_base_ = '../mae_pretrain.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=192, depth=6, num_heads=3), img_size=48, patch_size=8),
    neck=dict(embed_dim=96, depth=2, num_heads=3))
train_dataloader = dict(
    batch_size=32, num_workers=2,
    dataset=dict(
        data_root='data/demo/flat/train', cache='memory',
        pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=48, scale=(0.2, 1.0))]))
val_dataloader = dict(
    batch_size=256, num_workers=1,
    dataset=dict(data_root='data/demo/flat/val', pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=48)]))
test_dataloader = val_dataloader
# So few images are best spent on many small steps (docs/results.md); 1e-3 at this batch (`ours`).
optim_wrapper = dict(optimizer=dict(lr=8e-3))
auto_scale_lr = dict(base_batch_size=256)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=40, val_interval=10)
default_hooks = dict(logger=dict(interval=31), checkpoint=dict(interval=10))
custom_hooks = [
    dict(type='mae_mm.PanelHook'),
    dict(type='mae_mm.SummaryHook', next_commands=[
        'python tools/visualize.py {checkpoint} {images} --what pca attention neighbours --out page.html',
        'python tools/transfer.py {checkpoint} --suite demo-classification']),
]
