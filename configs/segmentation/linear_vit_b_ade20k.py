"""Linear probing of segmentation: one linear layer on frozen patch tokens, ViT-B/16, ADE20K, 40k iterations (`ours`).

As in MAE's linear probing (appendix A.1) a BatchNorm without affine precedes the linear layer.
Run: python tools/train.py configs/segmentation/linear_vit_b_ade20k.py --pretrained CHECKPOINT
"""
_base_ = './upernet_vit_b_ade20k_frozen.py'
model = dict(
    backbone=dict(out_indices=(-1, )),
    neck=dict(_delete_=True, type='mae_mm.BatchNormMaps', embed_dim=768),
    decode_head=dict(
        _delete_=True, type='FCNHead', num_convs=0, concat_input=False, in_channels=768, in_index=0, channels=768,
        dropout_ratio=0.0, num_classes=150, align_corners=False),
    auxiliary_head=None)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.0))
