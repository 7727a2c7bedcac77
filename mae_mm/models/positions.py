"""Fixed 2-D sine-cosine position tables."""

import torch
from torch import Tensor


def sincos_table(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Position table of a grid of patches (MAE, arXiv:2111.06377, appendix A.1; channel order of its release).

    The first half of the channels encodes the column, the second half the row; each half holds the sines, then the
    cosines, of position / 10000 ** (i / (D / 4)) for i = 0 … D / 4 - 1.

    Args:
        embed_dim: D, a multiple of 4.
        grid: rows and columns.

    Returns:
        (L, D) float32, row-major.

    Raises:
        ValueError: if D is no multiple of 4.
    """
    if embed_dim % 4:
        raise ValueError(f'embed_dim={embed_dim} is no multiple of 4, which a 2-D sine-cosine table needs')
    rows, cols = grid
    frequencies = 10000 ** -(torch.arange(embed_dim // 4, dtype=torch.float64) / (embed_dim // 4))

    def encode(positions: Tensor) -> Tensor:  # (L,) -> (L, D/2)
        angles = positions[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, col = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(cols, dtype=torch.float64), indexing='ij')
    return torch.cat([encode(col.flatten()), encode(row.flatten())], dim=1).float()
