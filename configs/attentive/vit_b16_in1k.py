"""Attentive probing on ImageNet-1K, ViT-B/16 (efficient probing, Psomas et al., ICLR 2026, arXiv:2506.10178).

32 learned queries attend to the frozen patch tokens; BatchNorm without affine and a linear layer follow. Rate, batch
and epochs are those of the authors' logs (`release`), the rest is linear probing's. One query: neck.num_queries=1.
Run:  bash tools/dist_train.sh configs/attentive/vit_b16_in1k.py 8 --pretrained CHECKPOINT    # 8 GPUs x 512 images
Cost: 15 h 46 min, batch 4096 (`release`).
"""
_base_ = '../linear/vit_b16_in1k.py'
model = dict(
    backbone=dict(out_type='raw'),
    neck=dict(_delete_=True, type='mae_mm.AttentivePool', embed_dim=768, num_queries=32))
optim_wrapper = dict(optimizer=dict(lr=0.1 * 4096 / 256))
auto_scale_lr = dict(base_batch_size=4096)
