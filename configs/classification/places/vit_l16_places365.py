"""Fine-tuning on Places365-Standard, ViT-L/16; lr and epochs are ImageNet-1K's (`ours`).

Drop path is that of Table 9 (appendix A.5, `paper`); the paper tuned lr and epochs and did not publish them.
Run: bash tools/dist_train.sh configs/classification/places/vit_l16_places365.py 16 --pretrained CHECKPOINT
"""
_base_ = '../vit_l16_in1k.py'
data = dict(type='mae_mm.Places365', data_root='data/places365')
data_preprocessor = dict(num_classes=365)
model = dict(backbone=dict(drop_path_rate=0.1), head=dict(num_classes=365))
train_dataloader = dict(dataset=data)
val_dataloader = test_dataloader = dict(dataset=data)
del data
