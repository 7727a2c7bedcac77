"""Pixels against the tokens of a dVAE, 1600 epochs, ViT-B, L and H (MAE, Table 7).

The numbers of normalised pixels are also in Table 3; no source of the others is at hand. Fine-tuning from raw pixels
and tokens has the drop path of Table 9 (`paper`). COCO and ADE20K: python tools/transfer.py CHECKPOINT --suite coco
On another base the size of the encoder is that of the base: name the rows of one size, --rows b_pixel b_pixel_norm.
Run: python tools/ablate.py configs/ablation/tokens.py --tokenizer dalle_encoder.pth --gpus 8
     python tools/ablate.py configs/ablation/tokens.py --rows l_token --write-config work_dirs/l_token.py
"""
title = 'Pixels and tokens'
source = 'Table 7'
raw = {'model.norm_pix_loss': False}
tokens = {**raw, 'model.target': dict(type='mae_mm.TokenTarget', weights='weights/dalle_encoder.pth')}
of_b = dict(base='configs/pretrain/vit_b16_1600e.py', transfers=dict(
    finetune='configs/classification/vit_b16_in1k.py', linear='configs/linear/vit_b16_in1k.py'))
of_l = dict(base='configs/pretrain/vit_l16_1600e.py', transfers=dict(
    finetune='configs/ablation/finetune_vit_l16.py', linear='configs/linear/vit_l16_in1k.py'))
of_h = dict(base='configs/pretrain/vit_h14_1600e.py', transfers=dict(
    finetune='configs/ablation/finetune_vit_h14.py', linear='configs/linear/vit_h14_in1k.py'))
norm_l = dict(of_l, transfers=dict(of_l['transfers'], finetune='configs/classification/vit_l16_in1k.py'))
norm_h = dict(of_h, transfers=dict(of_h['transfers'], finetune='configs/classification/vit_h14_in1k.py'))
rows = dict(
    b_pixel=dict(title='ViT-B, pixels', options=raw, **of_b),
    b_pixel_norm=dict(title='ViT-B, normalised pixels', finetune=83.6, options={'model.norm_pix_loss': True}, **of_b),
    b_token=dict(title='ViT-B, dVAE tokens', options=tokens, **of_b),
    l_pixel=dict(title='ViT-L, pixels', options=raw, **of_l),
    l_pixel_norm=dict(title='ViT-L, normalised pixels', finetune=85.9, options={'model.norm_pix_loss': True}, **norm_l),
    l_token=dict(title='ViT-L, dVAE tokens', options=tokens, **of_l),
    h_pixel=dict(title='ViT-H, pixels', options=raw, **of_h),
    h_pixel_norm=dict(title='ViT-H, normalised pixels', finetune=86.9, options={'model.norm_pix_loss': True}, **norm_h),
    h_token=dict(title='ViT-H, dVAE tokens', options=tokens, **of_h))
