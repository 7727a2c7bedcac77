"""Checks of detection and segmentation, which need mmcv's operators for this device."""

import time
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn

from mae_mm.benchmark.gpu_check import Context, SkipCheck
from mae_mm.benchmark.gpu_runs import CONFIGS
from mae_mm.registry import MODELS

ITERATIONS = 10


def needs_operators(device: str) -> None:
    """Skip where mmcv has no operators for the device."""
    try:
        from mmcv.ops import nms

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]], device=device)
        nms(boxes, boxes.new_ones(1), 0.5)
    except Exception as error:  # mmcv-lite, another torch's build, a build without CUDA
        raise SkipCheck(
            f'no mmcv operators for {device} ({str(error).splitlines()[0][:80]}): tools/build_mmcv.py') from error


def detector(context: Context) -> str:
    """Mask R-CNN with windows and relative positions, the ViT in bfloat16."""
    needs_operators(context.device)
    from mae_mm.benchmark.detector import build_detector, make_batch

    arch, size = ('tiny', 128) if context.small else ('base', 1024)
    model = build_detector('windows, relative positions', arch, size, context.device)
    model.backbone.bf16 = True
    imgs, samples = make_batch(size, 1 if context.small else 2, context.device)
    imgs = imgs.to(context.device)
    found = train(
        context, model, lambda: model.parse_losses(model.loss(imgs, samples))[0], 'mae_mm.GuardedOptimWrapper')
    return f'ViT-{arch}, {size} px, batch {len(imgs)}: {found}'


def segmentor(context: Context) -> str:
    """UperNet with an offset bias, under autocast."""
    needs_operators(context.device)
    model, size = build_segmentor(context.small, context.device)
    imgs, samples = label_maps(size, context.device)
    found = train(
        context, model, lambda: model.parse_losses(model.loss(imgs, samples))[0], 'mae_mm.AutocastOptimWrapper')
    return f'{size} px, batch 2: {found}'


def build_segmentor(small: bool, device: str) -> tuple[nn.Module, int]:
    """The segmentor of configs/segmentation, and the side of its images in pixels."""
    init_default_scope('mmseg')
    cfg, size = Config.fromfile(CONFIGS / 'segmentation/upernet_vit_b_ade20k.py').model, 512
    if small:
        size = 64
        cfg.data_preprocessor.size = (size, size)
        cfg.backbone.update(arch='tiny', img_size=size, out_indices=(2, 5, 8, 11))
        cfg.neck.embed_dim = 192
        cfg.decode_head.update(in_channels=[192] * 4, channels=32)
        cfg.auxiliary_head.update(in_channels=192, channels=32)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.to(device).train(), size


def label_maps(size: int, device: str) -> tuple[Tensor, list]:
    """Two images of noise, (2, 3, size, size) float, and their label maps."""
    from mmseg.structures import SegDataSample

    imgs, samples = torch.randn(2, 3, size, size, device=device), []
    for _ in imgs:
        sample = SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, size, size), device=device))
        samples.append(sample)
    return imgs, samples


def train(context: Context, model: nn.Module, loss: Callable[[], Tensor], wrapper_type: str) -> str:
    """Some iterations on one batch: the loss must fall."""
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(model, dict(
        type=wrapper_type, constructor='mae_mm.LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05, fused=True)))
    losses, seconds = [], []
    iterations = 2 if context.small else ITERATIONS
    for _ in range(iterations):
        start = time.perf_counter()
        with wrapper.optim_context(model):
            value = loss()
        wrapper.update_params(value)
        losses.append(value.item())  # waits for the device
        seconds.append(time.perf_counter() - start)
    assert all(map(torch.isfinite, torch.tensor(losses))), f'losses {losses}'
    assert context.small or losses[-1] < losses[0], f'losses {losses}'
    memory = f', {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB' if context.device == 'cuda' else ''
    return (f'loss {losses[0]:.2f} to {losses[-1]:.2f} in {iterations} iterations, '
            f'{sorted(seconds)[iterations // 2]:.3f} s each{memory}')
