"""MAE pre-training, ViT-H/14, 1600 epochs, weights and optimizer sharded over all processes (`ours`).

The same training as vit_h14_1600e.py in less memory; single-file checkpoints. Panels are not drawn.
Run: bash tools/dist_train.sh configs/pretrain/vit_h14_1600e_fsdp.py 64    # 64 GPUs x 64 images
"""
_base_ = './vit_h14_1600e.py'
runner_type = 'FlexibleRunner'
strategy = dict(type='mae_mm.FSDPStrategy')
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', interval=1, max_keep_ckpts=3))
custom_hooks = [dict(type='mae_mm.SummaryHook')]
