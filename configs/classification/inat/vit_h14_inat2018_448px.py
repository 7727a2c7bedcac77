"""Fine-tuning on iNaturalist 2018 at 448 px, ViT-H/14: 86.8 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/inat/vit_h14_inat2018_448px.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k_448px.py'
data_preprocessor = dict(num_classes=8142)
model = dict(head=dict(num_classes=8142))
train_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2018', year=2018))
val_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2018', year=2018))
test_dataloader = val_dataloader
