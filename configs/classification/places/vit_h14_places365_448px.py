"""Fine-tuning on Places365-Standard at 448 px, ViT-H/14: 60.3 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`). It reads the large images.
Run: bash tools/dist_train.sh configs/classification/places/vit_h14_places365_448px.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k_448px.py'
data_preprocessor = dict(num_classes=365)
model = dict(head=dict(num_classes=365))
train_dataloader = dict(dataset=dict(type='mae_mm.Places365', data_root='data/places365', small=False))
val_dataloader = dict(dataset=dict(type='mae_mm.Places365', data_root='data/places365', small=False))
test_dataloader = val_dataloader
