import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.models.masking import random_masking
from mae_mm.models.patches import patchify, unpatchify
from mae_mm.models.targets import (
    baseline_losses,
    interpolate_visible,
    masked_mean,
    normalize_patches,
    patch_errors,
    patch_stats,
)


def random_mask(n: int, num_patches: int, ratio: float = 0.75, seed: int = 0) -> torch.Tensor:
    return random_masking(torch.rand(n, num_patches, generator=torch.Generator().manual_seed(seed)), ratio).mask


def on_pixels(mask: torch.Tensor, grid: tuple[int, int], p: int) -> torch.Tensor:
    """(N, L) -> (N, 1, H, W) bool."""
    return unpatchify(mask[..., None].repeat(1, 1, p * p), p, grid)


# --- targets


def test_stats_of_a_patch():
    mean, std = patch_stats(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert mean.item() == 2.5
    assert std.item() == pytest.approx(math.sqrt(5 / 3 + 1e-6), rel=1e-6)  # 2 * (1.5² + 0.5²) / (4 - 1)


def test_normalized_patch():
    out = normalize_patches(torch.tensor([[[1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 7.0, 7.0]]]))
    assert out[0, 0].tolist() == pytest.approx([-1.1618947, -0.3872982, 0.3872982, 1.1618947], rel=1e-5)
    assert out[0, 1].tolist() == [0, 0, 0, 0]  # nothing to see, and no division by zero


@given(seed=st.integers(0, 99), gain=st.floats(0.5, 100), offset=st.floats(-100, 100))
def test_normalizing_forgets_brightness_and_contrast(seed, gain, offset):
    patches = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = normalize_patches(patches)
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3).double())
    torch.testing.assert_close(out.var(-1), torch.ones(2, 3).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(normalize_patches(patches * gain + offset), out, rtol=1e-5, atol=1e-5)


# --- loss


def test_loss_by_hand():
    pred = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[0.0, 0.0], [2.0, 4.0]]])
    target = torch.tensor([[[0.0, 1.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 1.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    # squares: (1, 4), not counted, (1, 1), (0, 9)
    assert masked_mean(patch_errors(pred, target), mask).item() == pytest.approx((2.5 + 1 + 4.5) / 3)


def test_loss_has_no_gradient_on_visible_patches():
    pred, target = (torch.randn(3, 16, 12, requires_grad=True) for _ in range(2))
    mask = random_mask(3, 16)
    masked_mean(patch_errors(pred, target), mask).backward()
    for grad in (pred.grad, target.grad):
        assert (grad[~mask] == 0).all()
        assert (grad[mask] != 0).all()
    torch.testing.assert_close(pred.grad[mask], 2 * (pred - target)[mask].detach() / (mask.sum() * 12))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_loss_is_computed_in_float32(dtype):
    pred, target = (torch.randn(2, 16, 12).to(dtype) for _ in range(2))
    mask = random_mask(2, 16)
    loss = masked_mean(patch_errors(pred, target), mask)
    assert loss.dtype == torch.float32
    exact = (pred.double() - target.double())[mask].square().mean()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


# --- interpolation


@given(
    rows=st.integers(2, 6), cols=st.integers(2, 6), p=st.sampled_from([2, 4, 8]), c=st.integers(1, 3),
    seed=st.integers(0, 99), ratio=st.floats(0, 0.75))
def test_interpolating_a_constant_image_gives_it_back(rows, cols, p, c, seed, ratio):
    imgs = torch.linspace(-2, 3, c).view(1, c, 1, 1).expand(1, c, rows * p, cols * p)
    out = interpolate_visible(imgs, random_mask(1, rows * cols, ratio, seed), p)
    torch.testing.assert_close(out, imgs.contiguous(), rtol=1e-5, atol=1e-5)


def test_interpolation_never_looks_at_masked_pixels():
    imgs, mask = torch.randn(2, 3, 32, 48), random_mask(2, 24)
    hidden = on_pixels(mask, (4, 6), 8)
    changed = torch.where(hidden, torch.full_like(imgs, 1e4), imgs)
    assert torch.equal(interpolate_visible(imgs, mask, 8), interpolate_visible(changed, mask, 8))
    assert not torch.equal(interpolate_visible(imgs, mask, 8), interpolate_visible(imgs + 1, mask, 8))


def test_one_visible_patch_serves_the_whole_image():
    mask = torch.ones(1, 196, dtype=torch.bool)
    mask[0, 0] = False
    out = interpolate_visible(torch.full((1, 3, 224, 224), 5.0), mask, 16)
    torch.testing.assert_close(out, torch.full_like(out, 5.0))


def test_interpolated_ramp_is_near_exact_in_the_interior():
    ramp = torch.arange(96.0).view(1, 1, 1, 96).expand(1, 1, 64, 96)  # patches of 8: a grid of 8 x 12
    mask = torch.tensor([[(r + c) % 2 == 1 for r in range(8) for c in range(12)]])  # a chessboard
    interior = torch.zeros(8, 12, dtype=torch.bool)
    interior[2:-2, 2:-2] = True
    out = interpolate_visible(ramp, mask, 8)
    chosen = on_pixels(mask & interior.view(1, -1), (8, 12), 8)
    within = (63 / 12)**0.5  # deviation of 0 … 7, what a patch's own mean leaves
    assert (out - ramp)[chosen].abs().max() < 0.6 * within
    # By symmetry the columns left and right of a masked patch's middle err by as much, to opposite sides.
    torch.testing.assert_close((out - ramp)[chosen].mean(), torch.tensor(0.0), atol=1e-3, rtol=0)


def test_interpolation_follows_the_nearest_visible_patch():
    imgs = torch.zeros(1, 1, 8, 64)
    imgs[..., 32:] = 1
    mask = torch.ones(1, 8, dtype=torch.bool)
    mask[0, [0, 7]] = False  # black at the left end, white at the right
    means = patchify(interpolate_visible(imgs, mask, 8), 8).mean(-1)[0]
    assert means[1] < 0.01 and means[6] > 0.99
    assert (means.diff() > 0).all()


# --- baselines


@pytest.mark.parametrize('norm_pix', [False, True])
def test_baselines_of_a_constant_image_are_zero(norm_pix):
    imgs = torch.tensor([0.3, -1.0, 2.0]).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    mask = random_mask(2, 16)
    if norm_pix:
        imgs = imgs[:, :1]  # channels that differ are a pattern within the patch
    patch_mean, interpolation = baseline_losses(imgs, mask, 8, norm_pix)
    assert interpolation.tolist() == pytest.approx([0, 0], abs=1e-5)
    expected = 0 if norm_pix else imgs[0, :, 0, 0].var(correction=0).item()
    assert patch_mean.tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_patch_mean_baseline_of_normalized_pixels_is_nearly_one():
    imgs = 50 * torch.randn(2, 3, 32, 32)
    patch_mean, _ = baseline_losses(imgs, random_mask(2, 16), 8, norm_pix=True)
    assert patch_mean.tolist() == pytest.approx([191 / 192] * 2, rel=1e-5)  # (P - 1) / P: the variance is unbiased


def test_patch_mean_baseline_of_raw_pixels_is_the_variance_within_masked_patches():
    imgs = torch.tensor([[0.0, 2.0, 5.0, 5.0], [0.0, 2.0, 5.0, 9.0]]).view(1, 1, 2, 4)
    variance = {0: 1.0, 1: (3 * 1**2 + 3**2) / 4}
    for mask in ([True, False], [False, True], [True, True]):
        patch_mean, _ = baseline_losses(imgs, torch.tensor([mask]), 2, norm_pix=False)
        hidden = [variance[i] for i in (0, 1) if mask[i]]
        assert patch_mean.tolist() == pytest.approx([sum(hidden) / len(hidden)])


@pytest.mark.parametrize('norm_pix', [False, True])
def test_interpolation_baseline_is_the_masked_loss_of_the_interpolated_image(norm_pix):
    imgs, mask = torch.randn(2, 2, 32, 48).cumsum(-1), random_mask(2, 24)
    guess, target = patchify(interpolate_visible(imgs, mask, 8), 8), patchify(imgs, 8)
    if norm_pix:
        mean, std = target.mean(-1, keepdim=True), (target.var(-1, keepdim=True) + 1e-6).sqrt()
        guess, target = (guess - guess.mean(-1, keepdim=True)) / std, (target - mean) / std
    _, interpolation = baseline_losses(imgs, mask, 8, norm_pix)
    expected = [(guess - target)[i][mask[i]].square().mean().item() for i in range(2)]
    assert interpolation.tolist() == pytest.approx(expected, rel=1e-5)


def test_interpolation_beats_the_patch_mean_on_a_ramp():
    ramp = torch.arange(64.0).view(1, 1, 1, 64).expand(1, 1, 64, 64)
    mask = torch.tensor([[(r + c) % 2 == 1 for r in range(8) for c in range(8)]])
    for norm_pix in (False, True):
        patch_mean, interpolation = baseline_losses(ramp, mask, 8, norm_pix)
        assert interpolation.item() < 0.4 * patch_mean.item()


def test_baselines_are_per_image():
    imgs, mask = torch.randn(3, 3, 32, 32), random_mask(3, 16)
    together = baseline_losses(imgs, mask, 8, True)
    for i in range(3):
        alone = baseline_losses(imgs[i:i + 1], mask[i:i + 1], 8, True)
        for a, b in zip(alone, together, strict=True):
            assert b.shape == (3, ) and b.dtype == torch.float32
            torch.testing.assert_close(a, b[i:i + 1])
