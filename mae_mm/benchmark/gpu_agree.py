"""The same model on the CPU and on this device: losses and gradients side by side."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from mae_mm.benchmark.gpu_check import Context
from mae_mm.registry import MODELS

# Relative difference of loss and gradient that rounding explains.
FLOAT32, TF32, BFLOAT16 = (1e-5, 1e-3), (1e-3, 1e-2), (1e-2, 6e-2)


def agree(context: Context) -> str:
    """Random weights and images; the CPU in float32 is the reference."""
    small = context.small
    tiny = dict(embed_dim=96, depth=4, num_heads=3)
    size, grid = (64, 4) if small else (224, 14)
    autoencoder = MODELS.build(dict(
        type='mae_mm.MAE', neck=dict(type='mae_mm.MAEDecoder', embed_dim=192, depth=2, num_heads=6),
        backbone=dict(type='mae_mm.ViT', arch=tiny if small else 'small', img_size=size, patch_size=16)))
    noise = torch.rand(4, grid**2)
    sides = (128, 64) if small else (1024, 512)
    windows = MODELS.build(dict(
        type='mae_mm.ViT', arch=dict(tiny, depth=8), img_size=sides[0], patch_size=16, out_type='featmap',
        window_size=3 if small else 14, rel_pos=True, out_indices=(1, 3, 5, 7)))
    offsets = MODELS.build(dict(
        type='mae_mm.ViT', arch=tiny, img_size=sides[1], patch_size=16, out_type='featmap', rel_pos=True,
        out_indices=(1, 3)))
    found = [
        compare('MAE', autoencoder, torch.randn(4, 3, size, size), context.device,
                lambda model, imgs: model.loss(imgs, noise=noise.to(imgs.device))['loss'])]
    for name, model, side in (('windows', windows, sides[0]), ('offset bias', offsets, sides[1])):
        found.append(compare(f'{name} {side} px', model, torch.randn(1, 3, side, side), context.device, features))
    return '; '.join(found)


def features(model: nn.Module, imgs: Tensor) -> Tensor:
    """A loss that all maps take part in."""
    return sum(x.float().square().mean() for x in model(imgs))


def compare(
    name: str, model: nn.Module, imgs: Tensor, device: str, run: Callable[[nn.Module, Tensor], Tensor],
) -> str:
    """Loss and gradient on the device in float32, TensorFloat-32 and bfloat16 beside those of the CPU in float32.

    Raises:
        AssertionError: if they differ by more than rounding.
    """
    model.init_weights()
    for param in model.parameters():  # relative positions start at zero, and would show nothing
        if param.requires_grad and not param.any():
            nn.init.normal_(param, std=0.1)
    reference = gradient(model, run, imgs, None)
    model = deepcopy(model).to(device)
    results = []
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for kind, precision, dtype, limits in (
            ('float32', 'highest', None, FLOAT32), ('TF32', 'high', None, TF32),
            ('bfloat16', 'high', torch.bfloat16, BFLOAT16),
        ):
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = precision == 'high'  # convolutions: the projection of patches
            answer = gradient(model, run, imgs.to(device), dtype)
            errors = [
                ((one.cpu() - two).norm() / two.norm()).item() for one, two in zip(answer, reference, strict=True)]
            results.append(f'{kind} {errors[0]:.0e}/{errors[1]:.0e}')
            assert all(error < limit for error, limit in zip(errors, limits, strict=True)), \
                f'{name}: relative difference of loss and gradient from the CPU: {", ".join(results)}, allowed {limits}'
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    return f'{name} (loss/gradient): {", ".join(results)}'


def gradient(
    model: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], imgs: Tensor, dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """Loss and the whole gradient, in double precision."""
    model.train()
    model.zero_grad()
    with torch.autocast(imgs.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        loss = run(model, imgs)
    loss.backward()
    grads = [param.grad.double().flatten() for param in model.parameters() if param.grad is not None]
    return loss.detach().double(), torch.cat(grads)
