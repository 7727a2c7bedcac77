"""Fine-tuning on iNaturalist 2017, ViT-H/14: 79.3 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/inat/vit_h14_inat2017.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k.py'
data_preprocessor = dict(num_classes=5089)
model = dict(head=dict(num_classes=5089))
train_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2017', year=2017))
val_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2017', year=2017))
test_dataloader = val_dataloader
