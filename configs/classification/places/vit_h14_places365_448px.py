"""Fine-tuning on Places365-Standard at 448 px, ViT-H/14; lr and epochs are ImageNet-1K's (`ours`).

Drop path is that of Table 9 (appendix A.5, `paper`); it tuned lr and epochs (not published). Reads the large images.
Run: bash tools/dist_train.sh configs/classification/places/vit_h14_places365_448px.py 64 --pretrained CHECKPOINT
"""
_base_ = '../vit_h14_in1k_448px.py'
data = dict(type='mae_mm.Places365', data_root='data/places365', small=False)
data_preprocessor = dict(num_classes=365)
model = dict(backbone=dict(drop_path_rate=0.2), head=dict(num_classes=365))
train_dataloader = dict(dataset=data)
val_dataloader = test_dataloader = dict(dataset=data)
del data
