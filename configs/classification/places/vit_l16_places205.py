"""Fine-tuning on Places205, ViT-L/16; lr and epochs are ImageNet-1K's (`ours`).

Drop path is that of Table 9 (appendix A.5, `paper`); the paper tuned lr and epochs and did not publish them.
Run: bash tools/dist_train.sh configs/classification/places/vit_l16_places205.py 16 --pretrained CHECKPOINT
"""
_base_ = '../vit_l16_in1k.py'
data = dict(
    _delete_=True, type='Places205', data_root='data/places205',
    data_prefix='data/vision/torralba/deeplearning/images256')
data_preprocessor = dict(num_classes=205)
model = dict(backbone=dict(drop_path_rate=0.1), head=dict(num_classes=205))
train_dataloader = dict(dataset=dict(
    **data,
    ann_file='trainvalsplit_places205/train_places205.csv',
    pipeline={{_base_.train_dataloader.dataset.pipeline}}))
val_dataloader = dict(dataset=dict(
    **data,
    ann_file='trainvalsplit_places205/val_places205.csv',
    pipeline={{_base_.val_dataloader.dataset.pipeline}}))
test_dataloader = val_dataloader
del data
