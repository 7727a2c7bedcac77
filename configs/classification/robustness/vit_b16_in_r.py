"""Fine-tuned ViT-B/16 on ImageNet-R: 48.3 top-1 (Table 13, `paper`), restricted to its 200 classes.

Run: python tools/test.py configs/classification/robustness/vit_b16_in_r.py FINE_TUNED_CHECKPOINT
"""
_base_ = './vit_b16_in_a.py'
test_dataloader = dict(dataset=dict(data_root='data/imagenet-r'))
