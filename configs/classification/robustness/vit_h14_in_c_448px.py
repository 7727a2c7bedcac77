"""Fine-tuned ViT-H/14 at 448 px on ImageNet-C: mean corruption error.

The images of 224 px are enlarged to 448 px, bicubically, as the model was fine-tuned at 448 px.
Run: python tools/test.py configs/classification/robustness/vit_h14_in_c_448px.py FINE_TUNED_CHECKPOINT
"""
_base_ = './vit_h14_in_a_448px.py'
test_dataloader = dict(dataset=dict(data_root='data/imagenet-c'))
test_evaluator = dict(type='mae_mm.MeanCorruptionError')
