"""Equal time instead of equal epochs, not in the paper (docs/performance.md).

A row trains for as many epochs as take the time of the first row's, by the CPU time of a step at demo scale; on another
base epochs are in proportion. On a GPU the proportions differ.
Run: python tools/ablate.py configs/ablation/speed.py --base configs/demo/ablation.py --seeds 3 \
         --cfg-options model.norm_pix_loss=True    # demo scale, CPUs
"""
title = 'Equal time'
third = {'model.neck.predict_ratio': 1 / 3}
rows = dict(
    full=dict(title='Full decoder, two blocks at demo scale', options={'train_cfg.max_epochs': 800}),
    half=dict(title='Full decoder, half the time', options={'train_cfg.max_epochs': 400}),
    double=dict(title='Full decoder, twice the time', options={'train_cfg.max_epochs': 1600}),
    depth_1=dict(title='Decoder of one block', options={'train_cfg.max_epochs': 1013, 'model.neck.depth': 1}),
    partial=dict(title='A third of the masked patches, self-attention', options={
        'train_cfg.max_epochs': 987, 'model.neck.type': 'mae_mm.PartialDecoder', **third}),
    cross=dict(title='A third of the masked patches, cross-attention', options={
        'train_cfg.max_epochs': 1040, 'model.neck.type': 'mae_mm.CrossDecoder', **third}),
    warm_up=dict(title='Half the warm-up', options={'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1}),
    ratio_80=dict(title='80 % masked', options={'train_cfg.max_epochs': 880, 'model.mask_ratio': 0.8}),
    ratio_85=dict(title='85 % masked', options={'train_cfg.max_epochs': 1013, 'model.mask_ratio': 0.85}))
