"""Decoder width (MAE, Table 1b).

Heads are 32 channels wide, as in the default (`ours`; the paper does not state it).
Run: python tools/ablate.py configs/ablation/decoder_width.py --gpus 8    # every row, ImageNet-1K
     python tools/ablate.py configs/ablation/decoder_width.py --base configs/demo/ablation.py    # demo scale, CPUs
"""
title = 'Decoder width, channels'
source = 'Table 1b'
rows = {
    '0128': dict(title='Decoder of 128 channels', finetune=84.9, linear=69.1,
                 options={'model.neck.embed_dim': 128, 'model.neck.num_heads': 4}),
    '0256': dict(title='Decoder of 256 channels', finetune=84.8, linear=71.3,
                 options={'model.neck.embed_dim': 256, 'model.neck.num_heads': 8}),
    '0512': dict(title='Decoder of 512 channels', finetune=84.9, linear=73.5,
                 options={'model.neck.embed_dim': 512, 'model.neck.num_heads': 16}),
    '0768': dict(title='Decoder of 768 channels', finetune=84.4, linear=73.1,
                 options={'model.neck.embed_dim': 768, 'model.neck.num_heads': 24}),
    '1024': dict(title='Decoder of 1024 channels', finetune=84.3, linear=73.1,
                 options={'model.neck.embed_dim': 1024, 'model.neck.num_heads': 32}),
}
