"""Fine-tuning at demo scale from the large images of the Places365 layout (`ours`); otherwise as classification.py.

Run: python tools/train.py configs/demo/classification_places.py --pretrained CHECKPOINT
"""
_base_ = './classification.py'
train_dataloader = dict(dataset=dict(small=False))
val_dataloader = dict(dataset=dict(small=False))
test_dataloader = val_dataloader
