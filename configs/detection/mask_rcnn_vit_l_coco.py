"""Mask R-CNN on COCO, ViT-L/16, the paper's adapter: box/mask AP 53.3/47.2 from MAE, 1600 epochs (Table 4, `paper`).

Run: bash tools/dist_train.sh configs/detection/mask_rcnn_vit_l_coco.py 64 --pretrained CHECKPOINT   # 64 GPUs x 1 image
Drop path and layer decay are ViTDet's (`ours`): the paper's are not published.
"""
_base_ = './mask_rcnn_vit_b_coco.py'
model = dict(
    backbone=dict(arch='large', out_indices=(5, 11, 17, 23), drop_path_rate=0.4),
    neck=[
        dict(type='mae_mm.FourTapPyramid', embed_dim=1024),
        dict(type='FPN', in_channels=[1024, 1024, 1024, 1024], out_channels=256, num_outs=5),
    ])
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
