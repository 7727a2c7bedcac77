"""Where a token is: fixed sine-cosine tables and their resizing, and relative positions in attention.

Relative positions are decomposed (as in ViTDet), or one learned bias for each offset (as in BEiT). Both start as zeros
in a transfer, so they change nothing until they are trained.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def sincos_table(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Position table of a grid of patches (MAE, arXiv:2111.06377, appendix A.1; channel order of its release).

    The first half of the channels encodes the column, the second half the row; each half holds the sines, then the
    cosines, of position / 10000 ** (i / (D / 4)) for i = 0 … D / 4 - 1. (L, D) float32, row-major.
    """
    if embed_dim % 4:
        raise ValueError(f'embed_dim={embed_dim} must be a multiple of 4 for a 2-D sine-cosine table')
    frequencies = 10000 ** -(torch.arange(embed_dim // 4, dtype=torch.float64) / (embed_dim // 4))
    row, col = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing='ij')
    angles = [axis.reshape(-1, 1) * frequencies for axis in (col, row)]  # (L, D / 4) each
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()


def fixed_table(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Sine-cosine table with a zero row for the class token in front: (1, 1 + L, D)."""
    return F.pad(sincos_table(embed_dim, grid), (0, 0, 1, 0)).unsqueeze(0)


def resize_table(table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resample a position table with a class row, (1, 1 + L, D), to another grid; the same grid is the identity.

    Differs from the release, whose bicubic resampling has no antialiasing (and so another kernel): of the sine-cosine
    table of ViT-B, 14 x 14, the results for 12 x 12 to 64 x 64 differ by 1 % of its RMS (0.05 at most, of values
    in [-1, 1]), those for 7 x 7 by 3 % (0.17).
    """
    return resample_abs_pos_embed(table, list(new_grid), list(old_grid), num_prefix_tokens=1)


def resize_rel_pos(table: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a table of relative positions to the `shape` that another window or grid needs.

    Of an axis, (2 S - 1, d), linearly as in ViTDet; of all offsets, (heads, 2 H - 1, 2 W - 1), bicubically.
    """
    if table.shape == tuple(shape):
        return table
    if table.ndim == 2:
        return F.interpolate(table.t()[None].float(), size=shape[0], mode='linear')[0].t().to(table.dtype)
    return F.interpolate(table[None].float(), size=tuple(shape[1:]), mode='bicubic')[0].to(table.dtype)


def axis_scores(q: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of the keys of each row, and of each column (MViTv2, arXiv:2112.01526, eq. 4).

    Queries (N, heads, L, d) -> (N, heads, L, rows) and (N, heads, L, cols). `tables` of rows and columns, (2 S - 1, d)
    each, have entry S - 1 + (query - key), and are resampled when S is not the grid's.
    """
    by_axes = q.unflatten(2, grid)
    row_scores = torch.einsum('nhrcd,rkd->nhrck', by_axes, _by_pairs(tables[0].to(q.dtype), grid[0]))
    col_scores = torch.einsum('nhrcd,ckd->nhrck', by_axes, _by_pairs(tables[1].to(q.dtype), grid[1]))
    return row_scores.flatten(2, 3), col_scores.flatten(2, 3)


def _by_pairs(table: Tensor, size: int) -> Tensor:
    """Entries of an axis's table by (query, key): (2 S - 1, d) -> (size, size, d).

    Windows that slide over the table, backwards: the gradient of an index would be a slow sort on a GPU.
    """
    return resize_rel_pos(table, (2 * size - 1, table.shape[1])).unfold(0, size, 1).flip(2).transpose(1, 2)


def extend_with_axes(
    q: Tensor, k: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor], scale: float,
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose plain product holds the decomposed relative positions.

    The score of query i and key j is q_i k_j * scale + q_i R_row(i, j) + q_i R_col(i, j). The last two depend on j by
    its row and its column alone: they become extra channels of the query, against one-hot rows and columns in the key.
    So fused attention still runs and no L x L bias ever exists. `grid` and `tables` are those of `axis_scores`.
    Returns two (N, heads, L, E), E = d + rows + cols, zero-padded to a multiple of 8; to be multiplied unscaled.
    """
    n, heads, _, width = q.shape
    rows, cols = grid
    fill = -(width + rows + cols) % 8  # fused kernels want multiples of 8
    q = torch.cat([q * scale, *axis_scores(q, grid, tables)], dim=-1)
    one_hot_rows = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(cols, dim=0)  # (L, rows)
    one_hot_cols = torch.eye(cols, dtype=k.dtype, device=k.device).repeat(rows, 1)  # (L, cols)
    axes = torch.cat([one_hot_rows, one_hot_cols], dim=1).expand(n, heads, -1, -1)
    return F.pad(q, (0, fill)), F.pad(torch.cat([k, axes], dim=-1), (0, fill))


def offset_bias(table: Tensor, class_bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bias of every pair of tokens, class token first (BEiT, arXiv:2106.08254, section 2.1).

    `table` (heads, 2 H - 1, 2 W - 1), by offset query - key, is resampled when it is not the grid's. `class_bias`
    (heads, 3): class token to patch, patch to class token, class token to itself. Result: (heads, 1 + L, 1 + L).
    """
    heads, (rows, cols) = len(table), grid
    table = resize_rel_pos(table, (heads, 2 * rows - 1, 2 * cols - 1))
    patches = table.unfold(1, rows, 1).unfold(2, cols, 1).flip(3, 4)  # by query row, query column, key row, key column
    patches = patches.reshape(heads, rows * cols, -1)
    to_patch, to_class, to_itself = class_bias[..., None, None].unbind(1)  # (heads, 1, 1) each
    first = torch.cat([to_itself, to_patch.expand(-1, 1, rows * cols)], dim=2)
    others = torch.cat([to_class.expand(-1, rows * cols, 1), patches], dim=2)
    return torch.cat([first, others], dim=1)
