"""One training step of this MAE against mmpretrain's own, at equal size, batch and dtype."""

import time
from collections.abc import Callable, Sequence

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mae_mm.benchmark.timing import Rounds, interleave
from mae_mm.models.archs import ARCHS
from mae_mm.registry import MODELS

OPTIMIZER = dict(type='AdamW', lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05)
# The published rule in mmpretrain's configs: one parameter group a tensor.
MMPRETRAIN_DECAY = dict(
    custom_keys={key: dict(decay_mult=0.0) for key in ('ln', 'bias', 'pos_embed', 'mask_token', 'cls_token')})

DTYPES = ('float32', 'bfloat16')
DECODERS = {'full': 'mae_mm.MAEDecoder', 'partial': 'mae_mm.PartialDecoder', 'cross': 'mae_mm.CrossDecoder'}
MMPRETRAIN_ARCHS = {'tiny': 'deit-tiny', 'base': 'b', 'large': 'l', 'huge': 'h'}


def build_ours(arch: str, img_size: int, patch_size: int, decoder: str = 'mae_mm.MAEDecoder') -> nn.Module:
    """This project's MAE with the published decoder, or one of `mae_mm.models.decoders`."""
    return MODELS.build(dict(
        type='mae_mm.MAE',
        backbone=dict(type='mae_mm.ViT', arch=arch, img_size=img_size, patch_size=patch_size),
        neck=dict(type=decoder)))


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


def train_step(
    model: nn.Module, imgs: torch.Tensor, autocast: bool, ours: bool, device: str, wait: bool = True, **options,
) -> Callable[[], None]:
    """A call that makes one optimizer step on uint8 images (N, C, H, W), and waits for it unless told not to.

    mmpretrain's own mixed precision needs a GPU (`AmpOptimWrapper`, float16); on a CPU it gets bfloat16 by hand.
    `options` are of our optimizer.
    """
    model.init_weights()
    model.to(device).train()
    imgs = imgs.pin_memory() if device == 'cuda' and not imgs.is_cuda else imgs
    by_hand = autocast and not ours and device == 'cpu'
    if ours:
        wrapper_type = 'mae_mm.AutocastOptimWrapper' if autocast else 'mae_mm.GuardedOptimWrapper'
        cfg = dict(type=wrapper_type, optimizer=dict(**OPTIMIZER, fused=True, **options),
                   constructor='mae_mm.LayerDecayOptimWrapperConstructor', **dict(dtype='bfloat16') if autocast else {})
    else:
        cfg = dict(type='AmpOptimWrapper' if autocast and not by_hand else 'OptimWrapper', optimizer=OPTIMIZER,
                   paramwise_cfg=MMPRETRAIN_DECAY)
    optim_wrapper = build_optim_wrapper(model, cfg)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=by_hand):
            model.train_step(dict(inputs=imgs, data_samples=None), optim_wrapper)
        if device == 'cuda' and wait:
            torch.cuda.synchronize()

    return step


def matmul(device: str) -> tuple[Callable[[], None], float]:
    """A call that multiplies two large bfloat16 matrices, for the peak of this machine, and its FLOPs."""
    size, repeats = (8192, 20) if device == 'cuda' else (2048, 8)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        for _ in range(repeats):
            a @ b
        if device == 'cuda':
            torch.cuda.synchronize()

    return run, 2.0 * size**3 * repeats


def step_flops(arch: str, img_size: int, patch_size: int, decoder: str = 'mae_mm.MAEDecoder') -> float:
    """Floating-point operations of matrix products in one training step of one image: three forward passes.

    Mask ratio 0.75, decoder of 8 blocks 512 wide; partial decoders predict a third.
    """
    def block(width: int, tokens: int, keys: int) -> float:  # projections and MLP of `tokens`, attention to `keys`
        return 24 * tokens * width**2 + 4 * tokens * keys * width

    width, depth = ARCHS[arch]['embed_dim'], ARCHS[arch]['depth']
    num_patches, values, narrow = (img_size // patch_size)**2, 3 * patch_size**2, 512
    visible = num_patches // 4
    asked = num_patches if decoder == 'mae_mm.MAEDecoder' else round((num_patches - visible) / 3)
    encoder = 2 * num_patches * values * width + depth * block(width, visible + 1, visible + 1)
    if decoder == 'mae_mm.CrossDecoder':  # keys and values are projected from the memory: 4 D^2 for each of its tokens
        blocks = block(narrow, asked, visible + 1) + 4 * narrow**2 * (visible + 1 - asked)
    else:
        tokens = 1 + (asked if asked == num_patches else visible + asked)
        blocks = block(narrow, tokens, tokens)
    return 3 * (encoder + 2 * (visible + 1) * width * narrow + 8 * blocks + 2 * asked * narrow * values)


def compare_steps(
    arch: str = 'base', img_size: int = 224, patch_size: int = 16, batch: int = 16, rounds: int | Rounds = 5,
    device: str = 'cpu', decoders: Sequence[str] = ('mae_mm.MAEDecoder',), dtypes: Sequence[str] = DTYPES,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict]:
    """Time a training step of this project with each decoder and of mmpretrain's MAE, all interleaved.

    Returns:
        A row for each: `name`, `dtype`, `seconds` a step (`Timing`), `images_per_second`, `tflops` (of the matrix
        products that the model needs), `share` of the matrix product measured between the steps, and `ratio`,
        mmpretrain's seconds in that dtype / these, `ratio_float32`, its seconds in float32 / these.
    """
    imgs = torch.randint(0, 256, (batch, 3, img_size, img_size), dtype=torch.uint8)
    steps, flops = {}, {}
    for dtype in dtypes:
        autocast = dtype != 'float32'
        for decoder in decoders:
            key = decoder, dtype
            steps[key] = train_step(build_ours(arch, img_size, patch_size, decoder), imgs, autocast, True, device)
            flops[key] = step_flops(arch, img_size, patch_size, decoder)
        key = 'mmpretrain', dtype
        steps[key] = train_step(build_mmpretrain(arch, img_size, patch_size), imgs, autocast, False, device)
        flops[key] = step_flops(arch, img_size, patch_size)
    product, product_flops = matmul(device)
    seconds = interleave({**steps, 'matmul': product}, rounds, warmup=3 if device == 'cuda' else 1, clock=clock)
    peak = product_flops / seconds['matmul'].median
    rows = []
    for name, dtype in steps:
        timing = seconds[name, dtype]
        rate = batch / timing.median
        float32 = seconds.get(('mmpretrain', 'float32'))
        rows.append(dict(
            name=name, dtype=dtype, seconds=timing, images_per_second=rate, tflops=rate * flops[name, dtype] / 1e12,
            share=rate * flops[name, dtype] / peak, ratio=seconds['mmpretrain', dtype].median / timing.median,
            ratio_float32=float32.median / timing.median if float32 else None))
    return rows


def attention_kernels(arch: str, img_size: int, patch_size: int, batch: int) -> list[str]:
    """Names of the GPU kernels with which our step attends, by the profiler: flash attention if all is well."""
    imgs = torch.randint(0, 256, (batch, 3, img_size, img_size), dtype=torch.uint8)
    step = train_step(build_ours(arch, img_size, patch_size), imgs, True, True, 'cuda')
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
    names = {event.key.split('(')[0] for event in profile.key_averages()}
    return sorted(name for name in names if any(word in name.lower() for word in ('flash', 'fmha', 'attention')))
