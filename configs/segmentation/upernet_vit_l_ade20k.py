"""UperNet on ADE20K, ViT-L/16 (MAE, appendix A.4).

lr, layer decay, drop path and taps were not published: layer decay and drop path are those of fine-tuning on
ImageNet-1K, taps those of BEiT (`ours`).
Run: bash tools/dist_train.sh configs/segmentation/upernet_vit_l_ade20k.py 8 --pretrained CHECKPOINT
"""
_base_ = './upernet_vit_b_ade20k.py'
model = dict(
    backbone=dict(arch='large', out_indices=(7, 11, 15, 23), drop_path_rate=0.2),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
