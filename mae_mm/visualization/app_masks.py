"""Masks of the page of `tools/app.py`: drawn by a sampler or painted by hand, and the errors under them."""

import math
from copy import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_mm.models.masking import SAMPLERS, fixed_noise
from mae_mm.visualization.views import COLOUR_MAP

PAINTED = 'painted'  # the sampler of masks that are painted by hand
GRID_RATIO = 0.75  # of the sampler 'grid', which has no other
MAX_BOARD = 48  # patches in a row or column that can be painted; of a finer mask, several at a time
BRIGHTEST = 64  # levels of 255: errors of that and more have the brightest colour


def choose_mask(grid: tuple[int, int], sampler: str, ratio: float, seed: float, painted: object = None) -> Tensor:
    """A mask for a grid of patches, (1, L) bool; `painted` is what the board sends, if the sampler is 'painted'."""
    if sampler == PAINTED:
        return read_board(painted, grid)
    noise = fixed_noise([0], math.prod(grid), int(seed or 0))
    return SAMPLERS[sampler](noise, GRID_RATIO if sampler == 'grid' else ratio, grid).mask


def read_board(painted: object, grid: tuple[int, int]) -> Tensor:
    """The mask of a board, for a grid that may be another: (1, L) bool. Without a board nothing is masked yet."""
    if painted is None:
        return torch.zeros(1, math.prod(grid), dtype=torch.bool)
    rows, cols, bits = (painted.get(key) if isinstance(painted, dict) else None for key in ('rows', 'cols', 'mask'))
    sides = all(isinstance(side, int) and 0 < side <= MAX_BOARD for side in (rows, cols))
    if not (sides and isinstance(bits, str) and len(bits) == rows * cols and set(bits) <= {'0', '1'}):
        raise ValueError('this is not a mask of the board')
    return fit(torch.tensor([[bit == '1' for bit in bits]]), (rows, cols), grid)


def fit(mask: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """A mask (1, L) bool on another grid: each patch is that in whose place it lies."""
    return F.interpolate(mask.view(1, 1, *grid).float(), wanted, mode='nearest').flatten(1) > 0.5


def masking_exactly(model: nn.Module, mask: Tensor) -> tuple[nn.Module, Tensor]:
    """A view of a model, with its weights, and the noise by which it hides exactly `mask`, (1, L) bool."""
    hidden, count = int(mask.sum()), mask.numel()
    if not 0 < hidden < count:
        raise ValueError(
            f'{"no" if not hidden else "every"} patch is masked; hide one or more, and leave one or more visible')
    view = copy(model)  # other users' masks are those of `model`
    view.mask_sampling, view.mask_ratio = 'random', 1 - (count - hidden + 0.5) / count  # half a patch from rounding
    return view, mask.float()


def error_map(original: np.ndarray, reconstruction: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, float]:
    """Errors of hidden pixels as colours, the others in gray, all (1, H, W, 3); and their mean in levels of 255."""
    error = np.abs(original.astype(np.float32) - reconstruction).mean(-1)
    colours = COLOUR_MAP[np.rint(error * (255 / BRIGHTEST)).clip(0, 255).astype(np.uint8)]
    gray = original.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    return np.where(hidden, colours, gray), float(error[hidden[..., 0]].mean())
