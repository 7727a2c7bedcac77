"""Images to patches and back."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_of(img_size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of `img_size` = (height, width) pixels."""
    height, width = img_size
    if height % patch_size or width % patch_size or not height or not width:
        nearest = [max(round(side / patch_size), 1) * patch_size for side in (height, width)]
        raise ValueError(
            f'an image of {height}x{width} px (height x width) cannot be divided into patches of {patch_size} px; '
            f'resize or crop it to a multiple, e.g. {nearest[0]}x{nearest[1]}')
    return height // patch_size, width // patch_size


def patchify(imgs: Tensor, patch_size: int) -> Tensor:
    """Cut images into a row-major sequence of flattened patches (MAE, arXiv:2111.06377, section 3).

    (N, C, H, W), any dtype -> (N, L, P) with L = H/p * W/p and P = p * p * C; inside a patch: row, column, channel
    (the release's order).
    """
    n, c, *img_size = imgs.shape
    h, w = grid_of(img_size, patch_size)
    patches = imgs.reshape(n, c, h, patch_size, w, patch_size)
    return torch.einsum('nchpwq->nhwpqc', patches).reshape(n, h * w, patch_size**2 * c)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of `patchify`: (N, L, P), L = rows * columns -> (N, C, H, W)."""
    n, (h, w) = patches.shape[0], grid
    patches = patches.unflatten(1, grid).unflatten(3, (patch_size, patch_size, -1))
    return torch.einsum('nhwpqc->nchpwq', patches).reshape(n, -1, h * patch_size, w * patch_size)
