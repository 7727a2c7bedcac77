"""Fine-tuned ViT-B/16 on ImageNet-Sketch: 34.5 top-1 (Table 13, `paper`).

Run: python tools/test.py configs/classification/robustness/vit_b16_in_sketch.py FINE_TUNED_CHECKPOINT
"""
_base_ = './vit_b16_in_a.py'
test_dataloader = dict(dataset=dict(data_root='data/imagenet-sketch'))
