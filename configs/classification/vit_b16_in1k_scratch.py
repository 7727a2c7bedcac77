"""ViT-B/16 from scratch on ImageNet-1K (MAE, appendix A.2, Table 11, `paper`).

Random erasing and mean pooling are those of the fine-tuning recipe (`release`), so that only the start differs.
Run: bash tools/dist_train.sh configs/classification/vit_b16_in1k_scratch.py 32    # 32 GPUs x 128 images
"""
_base_ = './vit_b16_in1k.py'
optim_wrapper = dict(
    optimizer=dict(lr=1e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.3), paramwise_cfg=dict(layer_decay_rate=1.0))
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=20, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
custom_hooks = [dict(type='EMAHook', momentum=1 - 0.9999, priority='ABOVE_NORMAL')]
