"""Fine-tuning at demo scale from the iNaturalist 2018 layout (`ours`); otherwise as configs/demo/classification.py.

Run: python tools/train.py configs/demo/classification_inat.py --pretrained CHECKPOINT
"""
_base_ = './classification.py'
train_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/demo/inat2018'))
val_dataloader = dict(dataset=dict(type='mae_mm.INaturalist', data_root='data/demo/inat2018'))
test_dataloader = val_dataloader
