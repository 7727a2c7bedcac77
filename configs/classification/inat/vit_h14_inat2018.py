"""Fine-tuning on iNaturalist 2018, ViT-H/14: 83.0 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/inat/vit_h14_inat2018.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k.py'
data_preprocessor = dict(num_classes=8142)
model = dict(head=dict(num_classes=8142))
train_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2018', year=2018))
val_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2018', year=2018))
test_dataloader = val_dataloader
