"""Relative positions in attention: decomposed (as in ViTDet), or one learned bias for each offset (as in BEiT).

Both are tables of zeros at the start of a transfer, so they change nothing until they are trained.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def axis_scores(q: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of the keys of each row, and of each column, of the grid.

    Args:
        q, grid, tables: as of `extend_with_axes`.

    Returns:
        (N, heads, L, rows) and (N, heads, L, cols).
    """
    by_axes = q.unflatten(2, grid)
    row_scores = torch.einsum('nhrcd,rkd->nhrck', by_axes, offsets(tables[0].to(q.dtype), grid[0]))
    col_scores = torch.einsum('nhrcd,ckd->nhrck', by_axes, offsets(tables[1].to(q.dtype), grid[1]))
    return row_scores.flatten(2, 3), col_scores.flatten(2, 3)


def extend_with_axes(q: Tensor, k: Tensor, grid: tuple[int, int], tables: tuple[Tensor, Tensor], scale: float,
                     ) -> tuple[Tensor, Tensor]:
    """Queries and keys whose plain product holds the decomposed relative positions (MViTv2, arXiv:2112.01526, eq. 4).

    The score of query i and key j is q_i k_j * scale + q_i R_row(i, j) + q_i R_col(i, j). The last two depend on j by
    its row and its column alone: they ride along as extra channels of the query, against one-hot rows and columns in
    the key. So fused attention still runs and no L x L bias ever exists.

    Args:
        q, k: (N, heads, L, d).
        grid: rows and columns of the tokens, their product is L.
        tables: of rows and columns, (2 S - 1, d) each, entry S - 1 + (query - key); resampled when S is not the grid's.
        scale: of the product of queries and keys.

    Returns:
        Two (N, heads, L, E), E = d + rows + cols, filled up with zeros to a multiple of 8; to be multiplied unscaled.
    """
    n, heads, _, width = q.shape
    rows, cols = grid
    row_scores, col_scores = axis_scores(q, grid, tables)
    fill = -(width + rows + cols) % 8  # fused kernels want multiples of 8
    q = torch.cat([q * scale, row_scores, col_scores], dim=-1)
    one_hot_rows = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(cols, dim=0)  # (L, rows)
    one_hot_cols = torch.eye(cols, dtype=k.dtype, device=k.device).repeat(rows, 1)  # (L, cols)
    axes = torch.cat([one_hot_rows, one_hot_cols], dim=1).expand(n, heads, -1, -1)
    return F.pad(q, (0, fill)), F.pad(torch.cat([k, axes], dim=-1), (0, fill))


def offsets(table: Tensor, size: int) -> Tensor:
    """Entries of a relative table by (query, key) along an axis: (2 S - 1, d) -> (size, size, d).

    A table of another size is resampled linearly, as ViTDet does.
    """
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.t()[None].float(), size=2 * size - 1, mode='linear')[0].t().to(table.dtype)
    steps = torch.arange(size, device=table.device)
    return table[steps[:, None] - steps + size - 1]


def offset_bias(table: Tensor, class_bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bias of every pair of tokens, class token first (BEiT, arXiv:2106.08254, section 2.1).

    Args:
        table: (heads, 2 H - 1, 2 W - 1), by offset query - key; resampled (bicubic) when it is not the grid's.
        class_bias: (heads, 3): class token to patch, patch to class token, class token to itself.
        grid: rows and columns.

    Returns:
        (heads, 1 + L, 1 + L), to be added to the scores.
    """
    rows, cols = grid
    if table.shape[1:] != (2 * rows - 1, 2 * cols - 1):
        table = F.interpolate(table[None].float(), (2 * rows - 1, 2 * cols - 1), mode='bicubic')[0].to(table.dtype)
    row, col = (torch.arange(side, device=table.device) for side in grid)
    by_row = row[:, None] - row + rows - 1  # (rows, rows): query, key
    by_col = col[:, None] - col + cols - 1
    patches = table[:, by_row[:, None, :, None], by_col[None, :, None, :]]  # (heads, rows, cols, rows, cols)
    patches = patches.reshape(len(table), rows * cols, rows * cols)
    bias = F.pad(patches, (1, 0, 1, 0))
    is_class = torch.zeros(1 + rows * cols, dtype=torch.bool, device=table.device)
    is_class[0] = True
    first, second, both = (value[:, None, None] for value in class_bias.unbind(1))
    kinds = torch.where(is_class[:, None] & is_class, both, torch.where(is_class[:, None], first, second))
    return torch.where(is_class[:, None] | is_class, kinds, bias)
