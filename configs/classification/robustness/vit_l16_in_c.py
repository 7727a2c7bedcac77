"""Fine-tuned ViT-L/16 on ImageNet-C: mean corruption error.

One run over all 75 folders, ROOT/<corruption>/<severity>/<WordNet id>/*.JPEG, of 224 px: nothing is resized.
Run: python tools/test.py configs/classification/robustness/vit_l16_in_c.py FINE_TUNED_CHECKPOINT
"""
_base_ = './vit_l16_in_a.py'
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=224), dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(data_root='data/imagenet-c', pipeline=test_pipeline))
test_evaluator = dict(type='mae_mm.MeanCorruptionError')
