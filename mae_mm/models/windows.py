"""Tokens of an image to windows and back (ViTDet, arXiv:2203.16527, section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_windows(tokens: Tensor, grid: tuple[int, int], size: int) -> tuple[Tensor, Tensor | None]:
    """Cut a grid of tokens into windows; the last row and column of windows are filled up with zeros.

    Args:
        tokens: (N, L, D), row-major.
        grid: rows and columns, their product is L.
        size: side of a window in tokens.

    Returns:
        (N * W, size * size, D) with W windows an image, row-major; and, where there is filling, (N * W, 1, 1,
        size * size) bool, True = a real token, to be given to attention as its mask: real tokens then never see it.
    """
    n, _, width = tokens.shape
    rows, cols = grid
    down, right = -rows % size, -cols % size
    x = F.pad(tokens.view(n, rows, cols, width), (0, 0, 0, right, 0, down))
    windows = _split(x, size)
    if not down and not right:
        return windows, None
    real = F.pad(torch.ones(1, rows, cols, 1, dtype=torch.bool, device=tokens.device), (0, 0, 0, right, 0, down))
    return windows, _split(real, size).view(-1, 1, 1, size * size).repeat(n, 1, 1, 1)


def from_windows(windows: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Inverse of `to_windows`: (N * W, size * size, D) -> (N, L, D), without the filling."""
    rows, cols = grid
    down, across = -(-rows // size), -(-cols // size)  # windows in a column, in a row
    x = windows.view(-1, down, across, size, size, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(len(x), down * size, across * size, -1)[:, :rows, :cols]
    return x.reshape(len(x), rows * cols, -1)


def _split(x: Tensor, size: int) -> Tensor:
    """(N, H, W, D) with sides that are multiples of `size` -> (N * windows, size * size, D)."""
    n, height, width, channels = x.shape
    x = x.view(n, height // size, size, width // size, size, channels).transpose(2, 3)
    return x.reshape(-1, size * size, channels)
