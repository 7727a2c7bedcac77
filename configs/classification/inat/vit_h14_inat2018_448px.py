"""Fine-tuning on iNaturalist 2018 at 448 px, ViT-H/14; lr and epochs are ImageNet-1K's (`ours`).

Drop path is that of Table 9 (appendix A.5, `paper`); the paper tuned lr and epochs and did not publish them.
Run: bash tools/dist_train.sh configs/classification/inat/vit_h14_inat2018_448px.py 64 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k_448px.py'
data = dict(type='mae_mm.INaturalist', data_root='data/inat2018', year=2018)
data_preprocessor = dict(num_classes=8142)
model = dict(backbone=dict(drop_path_rate=0.2), head=dict(num_classes=8142))
train_dataloader = dict(dataset=data)
val_dataloader = test_dataloader = dict(dataset=data)
del data
