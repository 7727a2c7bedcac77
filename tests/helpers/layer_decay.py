"""The published rule of layer-wise learning rates, to compare optimizers with."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

LR, WD = 1e-3, 0.05


def optimizer_of(model: nn.Module, **paramwise) -> torch.optim.Optimizer:
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper', constructor='mae_mm.LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=WD), **(dict(paramwise_cfg=paramwise) if paramwise else {})))
    return wrapper.optimizer


def rates_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter that is in a group; each is in one."""
    names = {id(param): name for name, param in model.named_parameters()}
    rates = [(names[id(param)], (group['lr'], group['weight_decay']))
             for group in optimizer.param_groups for param in group['params']]
    assert len(dict(rates)) == len(rates)
    return dict(rates)


def published(model: nn.Module, encoder: str, depth: int, rate: float) -> dict[str, tuple[float, float]]:
    """The rule of BEiT and MAE: lr * rate ** (depth + 1 - layer).

    Layer 0 is the embedding, layer i + 1 is block i, layer depth + 1 all the rest.
    """
    expected = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        layer = depth + 1
        if name.startswith(encoder):
            inside = name[len(encoder):]
            if inside in ('cls_token', 'pos_embed') or inside.startswith('patch_embed.'):
                layer = 0
            elif inside.startswith('blocks.'):
                layer = int(inside.split('.')[1]) + 1
        no_decay = len(param.shape) == 1 or name.endswith(('cls_token', 'pos_embed', 'mask_token'))
        expected[name] = (LR * rate**(depth + 1 - layer), 0 if no_decay else WD)
    return expected


def assert_same(actual: dict, expected: dict) -> None:
    assert set(actual) == set(expected)
    for name, pair in actual.items():
        assert pair == pytest.approx(expected[name]), name
