"""MAE pre-training on tiles of whole slides, satellite scenes and other files of gigapixels, on a laptop (`ours`).

Each epoch takes 200 random windows of 256 px from every file; whole files are held out, and seen as a grid.
Run:  python tools/train.py configs/own_data/mae_tiles.py --data SLIDES
More: downsample, background, and other bands and types: docs/pixels.md, "Large images".
"""
_base_ = 'mae_pretrain.py'
tiles = dict(type='mae_mm.TiledImages', size=256)
train_dataloader = dict(dataset=dict(
    **tiles, per_file=200, cache='none', pipeline=[
        dict(type='mae_mm.LoadRandomResizedCrop', size=64, scale=(0.2, 1.0))]))
val_dataloader = dict(dataset=dict(
    **tiles, stride=1024, pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=64)]))
test_dataloader = val_dataloader
del tiles
