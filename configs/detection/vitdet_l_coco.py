"""ViTDet on COCO, ViT-L/16 (arXiv:2203.16527, Table 5, `paper`).

Run: bash tools/dist_train.sh configs/detection/vitdet_l_coco.py 64 --pretrained CHECKPOINT    # 64 GPUs x 1 image
"""
_base_ = './vitdet_b_coco.py'
model = dict(backbone=dict(arch='large', out_indices=(23, ), drop_path_rate=0.4), neck=dict(embed_dim=1024))
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
