"""Tiny models and images for every test: 32 px, patches of 8, width 32, depth 2."""

import functools
import logging
import os
from collections.abc import Callable, Iterator

import mae_mm  # noqa: F401  before torch, whose threads would spin

os.environ['OPENBLAS_NUM_THREADS'] = '1'  # read when NumPy is first imported

import pytest
import torch
from helpers.tiny import DECODER, ENCODER
from hypothesis import settings
from mmengine.config import utils as config_utils
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mae_mm.models.mae import MAE
from mae_mm.models.vit import ViT

torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 1)))
# mmengine parses all metafiles of a host whenever a config inherits from it: seconds for a config.
config_utils.load = functools.cache(config_utils.load)
settings.register_profile('repeatable', deadline=None, derandomize=True)
settings.load_profile('repeatable')


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_scope() -> Iterator[None]:
    """Leave the default scope that a test has entered."""
    yield
    DefaultScope._instance_dict.clear()  # mmengine has no way to leave a scope that was entered for good


@pytest.fixture(autouse=True)
def logging_on() -> Iterator[None]:
    """Let the next test log, whatever a tool switched off for its process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def make_vit() -> Callable[..., ViT]:
    """A function that builds a tiny `ViT`; keywords replace its arguments."""
    return lambda **options: _scramble(ViT(**{**ENCODER, **options}))


@pytest.fixture
def make_mae() -> Callable[..., MAE]:
    """A function that builds a tiny `MAE`; `backbone` and `neck` are merged into the tiny ones."""
    def make(backbone: dict | None = None, neck: dict | None = None, **options) -> MAE:
        return _scramble(MAE(
            backbone=dict(type='mae_mm.ViT', **{**ENCODER, **(backbone or {})}),
            neck={'type': 'mae_mm.MAEDecoder', **DECODER, **(neck or {})}, **options))
    return make


@pytest.fixture
def imgs() -> Tensor:
    """(2, 3, 32, 32) float32 noise."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _scramble(module: nn.Module) -> nn.Module:
    """Initialise, then change every weight: a zero bias or a unit norm can hide a mistake."""
    module.init_weights()
    with torch.no_grad():
        for name, param in module.named_parameters():
            if not name.endswith('pos_embed'):
                param.add_(0.1 * torch.randn_like(param))
    return module
