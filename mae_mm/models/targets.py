"""What the decoder is asked for, and what can be answered without learning anything."""

import torch
from torch import Tensor

from mae_mm.models.patches import patchify, unpatchify

EPS = 1e-6  # added to the variance of a patch, as in the release


def patch_stats(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased variance) of each patch: (N, L, P) -> two (N, L, 1)."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + EPS).sqrt()


def normalize_patches(patches: Tensor) -> Tensor:
    """Give each patch zero mean and unit variance (MAE, arXiv:2111.06377, section 3, "reconstruction target").

    Args:
        patches: (N, L, P) float.

    Returns:
        (N, L, P), same dtype.
    """
    mean, std = patch_stats(patches)
    return (patches - mean) / std


def check_loss(loss_type: str) -> str:
    """'l2' or 'l1'.

    Raises:
        ValueError: for anything else.
    """
    if loss_type not in ('l2', 'l1'):
        raise ValueError(f"loss_type={loss_type!r} is none of 'l2' (squared differences), 'l1' (absolute ones)")
    return loss_type


def patch_errors(pred: Tensor, target: Tensor, loss_type: str = 'l2') -> Tensor:
    """Mean squared ('l2') or absolute ('l1') difference of each patch, float32: two (N, L, P) -> (N, L)."""
    difference = pred.float() - target.float()
    return (difference.abs() if loss_type == 'l1' else difference.square()).mean(-1)


def masked_means(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean over each image's masked patches: (N, L) float and (N, L) bool -> (N,)."""
    return (errors * mask).sum(1) / mask.sum(1)


def masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean over all masked patches, of which there is at least one: (N, L) float and (N, L) bool -> scalar."""
    return (errors * mask).sum() / mask.sum()


def interpolate_visible(imgs: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Fill masked patches by smooth interpolation from the visible ones: the baseline that needs no learning.

    Normalised convolution: Gaussian-weighted means of the visible pixels, at four widths; a wider one counts a
    thousandth of the one before it, so it matters only where that one finds nothing.

    Args:
        imgs: (N, C, H, W) float.
        mask: (N, L) bool, True = masked.

    Returns:
        (N, C, H, W): the interpolated image (visible pixels are smoothed, too).
    """
    grid = (imgs.shape[2] // patch_size, imgs.shape[3] // patch_size)
    visible = unpatchify((~mask).to(imgs.dtype).unsqueeze(-1).repeat(1, 1, patch_size**2), patch_size, grid)
    stacked = torch.cat([imgs * visible, visible], dim=1)  # (N, C + 1, H, W)
    total = sum(1e-3**i * _blur(stacked, patch_size * 2.0**(i - 1)) for i in range(4))
    return total[:, :-1] / total[:, -1:].clamp_min(1e-30)


def _blur(imgs: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur with zeros outside: (N, C, H, W), `sigma` in pixels."""
    for dim in (2, 3):
        steps = torch.arange(imgs.shape[dim], device=imgs.device, dtype=imgs.dtype)
        kernel = torch.exp(-0.5 * ((steps[:, None] - steps) / sigma).square())  # (S, S), symmetric
        imgs = torch.einsum('nchw,hk->nckw' if dim == 2 else 'nchw,wk->nchk', imgs, kernel)
    return imgs


def baseline_losses(
    imgs: Tensor, mask: Tensor, patch_size: int, norm_pix: bool, loss_type: str = 'l2',
) -> tuple[Tensor, Tensor]:
    """Masked loss of two predictors that learn nothing.

    The first predicts every pixel of a patch by that patch's true mean. The second predicts by `interpolate_visible`;
    with normalised targets its own patch mean is taken off, for the target's is zero by definition.

    Args:
        imgs: (N, C, H, W) float, as the model sees them.
        mask: (N, L) bool, True = masked.
        norm_pix: whether the target is normalised pixels.
        loss_type: 'l2' or 'l1'.

    Returns:
        Two (N,) float32, one loss per image: (patch mean, interpolation).
    """
    patches = patchify(imgs.float(), patch_size)
    guess = patchify(interpolate_visible(imgs.float(), mask, patch_size), patch_size)
    mean, std = patch_stats(patches)
    scale = std if norm_pix else torch.ones_like(std)
    offset = guess.mean(-1, keepdim=True) if norm_pix else mean

    def per_image(answer: Tensor) -> Tensor:  # (N, L, P) -> (N,)
        return masked_means(patch_errors(answer / scale, (patches - mean) / scale, loss_type), mask)

    return per_image(torch.zeros_like(patches)), per_image(guess - offset)
