"""Fine-tuned ViT-H/14 on ImageNet-A, -R and -Sketch.

Run: python tools/test.py configs/classification/robustness/vit_h14_in_a.py FINE_TUNED_CHECKPOINT
     … --cfg-options test_dataloader.dataset.data_root=data/imagenet-r    # or data/imagenet-sketch
"""
_base_ = '../vit_h14_in1k.py'
test_dataloader = dict(dataset=dict(
    _delete_=True,
    type='mae_mm.ImageNetVariant',
    data_root='data/imagenet-a',
    pipeline=_base_.test_pipeline,
    test_mode=True))
test_evaluator = dict(_delete_=True, type='mae_mm.SubsetAccuracy')
