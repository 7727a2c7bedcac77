"""Fine-tuning on iNaturalist 2019, ViT-L/16: 83.4 top-1 (Table 6, `paper`).

Epochs, lr and drop path were not published: those of ImageNet-1K (`ours`).
Run: bash tools/dist_train.sh configs/classification/inat/vit_l16_inat2019.py 8 --pretrained CHECKPOINT
"""
_base_ = '../vit_l16_in1k.py'
data_preprocessor = dict(num_classes=1010)
model = dict(head=dict(num_classes=1010))
train_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2019', year=2019))
val_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/inat2019', year=2019))
test_dataloader = val_dataloader
