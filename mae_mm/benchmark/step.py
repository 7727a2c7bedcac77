"""One training step of this MAE against mmpretrain's own, at equal size, batch and dtype."""

from collections.abc import Callable

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mae_mm.benchmark.timing import interleave
from mae_mm.registry import MODELS
from mae_mm.vit import ARCHS

OPTIMIZER = dict(type='AdamW', lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05)
# The published rule in mmpretrain's configs: one parameter group a tensor.
MMPRETRAIN_DECAY = dict(
    custom_keys={key: dict(decay_mult=0.0) for key in ('ln', 'bias', 'pos_embed', 'mask_token', 'cls_token')})

MMPRETRAIN_ARCHS = {'base': 'b', 'large': 'l', 'huge': 'h'}


def build_ours(arch: str, img_size: int, patch_size: int) -> nn.Module:
    """This project's MAE with the published decoder."""
    return MODELS.build(dict(
        type='mae_mm.MAE',
        backbone=dict(type='mae_mm.ViT', arch=arch, img_size=img_size, patch_size=patch_size),
        neck=dict(type='mae_mm.MAEDecoder')))


def build_mmpretrain(arch: str, img_size: int, patch_size: int) -> nn.Module:
    """mmpretrain's MAE with the published decoder."""
    decoder = dict(embed_dim=512, depth=8, num_heads=16)
    return MODELS.build(
        mmpretrain_model(MMPRETRAIN_ARCHS[arch], ARCHS[arch]['embed_dim'], img_size, patch_size, decoder))


def mmpretrain_model(arch: str | dict, embed_dim: int, img_size: int, patch_size: int, decoder: dict) -> dict:
    """mmpretrain's MAE as its config `mae_vit-base-p16` builds it, in any size; `decoder` as of `mae_mm.MAEDecoder`."""
    return dict(
        type='mmpretrain.MAE',
        data_preprocessor=dict(
            type='mmpretrain.SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            to_rgb=True),
        backbone=dict(type='mmpretrain.MAEViT', arch=arch, img_size=img_size, patch_size=patch_size, mask_ratio=0.75),
        neck=dict(
            type='mmpretrain.MAEPretrainDecoder', num_patches=(img_size // patch_size)**2, patch_size=patch_size,
            in_chans=3, embed_dim=embed_dim, decoder_embed_dim=decoder['embed_dim'], decoder_depth=decoder['depth'],
            decoder_num_heads=decoder['num_heads'], mlp_ratio=4.),
        head=dict(
            type='mmpretrain.MAEPretrainHead', norm_pix=True, patch_size=patch_size,
            loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2')))


def train_step(model: nn.Module, imgs: torch.Tensor, autocast: bool, ours: bool, device: str) -> Callable[[], None]:
    """A call that makes one optimizer step on uint8 images (N, C, H, W)."""
    model.init_weights()
    model.to(device).train()
    if ours:
        wrapper_type = 'mae_mm.AutocastOptimWrapper' if autocast else 'OptimWrapper'
        cfg = dict(type=wrapper_type, optimizer=dict(**OPTIMIZER, fused=True),
                   constructor='mae_mm.LayerDecayOptimWrapperConstructor')
    else:
        cfg = dict(type='OptimWrapper', optimizer=OPTIMIZER, paramwise_cfg=MMPRETRAIN_DECAY)
    optim_wrapper = build_optim_wrapper(model, cfg)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=autocast and not ours):
            model.train_step(dict(inputs=imgs, data_samples=None), optim_wrapper)
        if device == 'cuda':
            torch.cuda.synchronize()

    return step


def compare_steps(
    arch: str = 'base', img_size: int = 224, patch_size: int = 16, batch: int = 16, rounds: int = 5,
    device: str = 'cpu',
) -> list[dict]:
    """Time both models in float32 and bfloat16, all four interleaved.

    Returns:
        A row for each dtype: seconds a step of both (`Timing`), and `ratio`, theirs / ours (above 1: ours is faster).
    """
    imgs = torch.randint(0, 256, (batch, 3, img_size, img_size), dtype=torch.uint8)
    builders = {'mae_mm': build_ours, 'mmpretrain': build_mmpretrain}
    steps = {
        (name, dtype): train_step(
            build(arch, img_size, patch_size), imgs, dtype == 'bfloat16', name == 'mae_mm', device)
        for dtype in ('float32', 'bfloat16') for name, build in builders.items()
    }
    seconds = interleave(steps, rounds)
    return [
        dict(
            dtype=dtype, mae_mm=seconds['mae_mm', dtype], mmpretrain=seconds['mmpretrain', dtype],
            ratio=seconds['mmpretrain', dtype].median / seconds['mae_mm', dtype].median)
        for dtype in ('float32', 'bfloat16')
    ]
