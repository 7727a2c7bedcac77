"""Fine-tuning on Places205, ViT-B/16: 63.9 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/places/vit_b16_places205.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_b16_in1k.py'
data_preprocessor = dict(num_classes=205)
model = dict(head=dict(num_classes=205))
train_dataloader = dict(dataset=dict(type='mae_mm.Places205', data_root='data/places205'))
val_dataloader = dict(dataset=dict(type='mae_mm.Places205', data_root='data/places205'))
test_dataloader = val_dataloader
