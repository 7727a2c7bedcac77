"""The budget of configs/demo/ablation_finetune.py from random weights (`ours`).

Run: python tools/train.py configs/demo/ablation_scratch.py
"""
_base_ = './ablation_finetune.py'
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
