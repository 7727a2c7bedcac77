"""Fine-tuning on Places365-Standard, ViT-H/14: 59.8 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/places/vit_h14_places365.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k.py'
data_preprocessor = dict(num_classes=365)
model = dict(head=dict(num_classes=365))
train_dataloader = dict(dataset=dict(type='mae_mm.Places365', data_root='data/places365'))
val_dataloader = dict(dataset=dict(type='mae_mm.Places365', data_root='data/places365'))
test_dataloader = val_dataloader
