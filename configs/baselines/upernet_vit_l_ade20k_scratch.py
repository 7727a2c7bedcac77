"""UperNet on ADE20K, ViT-L/16, from random weights, with the budget of the run from MAE (`ours`; nothing is published).

Run: bash tools/dist_train.sh configs/baselines/upernet_vit_l_ade20k_scratch.py 8
"""
_base_ = '../segmentation/upernet_vit_l_ade20k.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
