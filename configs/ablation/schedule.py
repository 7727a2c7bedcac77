"""Length of pre-training (MAE, Figure 7).

On another base epochs are in proportion: 800 stand for those of the base. Most numbers are in the figure only.
Run: python tools/ablate.py configs/ablation/schedule.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/schedule.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Length of pre-training'
source = 'Fig. 7'
axis = 'epochs (of the paper)'
rows = {
    '0100': dict(title='100 epochs', options={'train_cfg.max_epochs': 100}),
    '0200': dict(title='200 epochs', options={'train_cfg.max_epochs': 200}),
    '0400': dict(title='400 epochs', options={'train_cfg.max_epochs': 400}),
    '0800': dict(title='800 epochs', finetune=84.9, linear=73.5, options={'train_cfg.max_epochs': 800}),
    '1600': dict(title='1600 epochs', options={'train_cfg.max_epochs': 1600}),
}
