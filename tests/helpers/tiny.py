"""Sizes of the tiny models: 32 px, patches of 8, width 32, depth 2."""

ENCODER = dict(arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8)
DECODER = dict(embed_dim=16, depth=1, num_heads=2)
# Of a run that pre-trained the tiny model, as its checkpoints hold it.
CONFIG = dict(
    default_scope='mmpretrain',
    model=dict(
        type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', **ENCODER),
        neck=dict(type='mae_mm.MAEDecoder', **DECODER)),
    val_dataloader=dict(dataset=dict(pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=32)])))
