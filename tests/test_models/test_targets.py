import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mae_mm.checkpoint import load_pretrained, read_checkpoint
from mae_mm.models.masking import random_masking
from mae_mm.models.patches import patchify, unpatchify
from mae_mm.models.pca import fit_pca
from mae_mm.models.targets import (
    PixelTarget,
    flat_patches,
    interpolate_visible,
    masked_means,
    patch_errors,
    patch_stats,
    with_data,
)
from mae_mm.registry import MODELS

TOKENIZER = dict(type='mmpretrain.DALL-E', n_hid=4, n_blk_per_group=1)
TOKENS = dict(type='mae_mm.TokenTarget', tokenizer=TOKENIZER, num_values=11)


def random_mask(n: int, num_patches: int, ratio: float = 0.75, seed: int = 0) -> Tensor:
    return random_masking(torch.rand(n, num_patches, generator=torch.Generator().manual_seed(seed)), ratio).mask


def on_pixels(mask: Tensor, grid: tuple[int, int], p: int) -> Tensor:
    """(N, L) -> (N, 1, H, W) bool."""
    return unpatchify(mask[..., None].repeat(1, 1, p * p), p, grid)


# --- targets


def test_stats_of_a_patch():
    mean, std = patch_stats(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert mean.item() == 2.5
    assert std.item() == pytest.approx(math.sqrt(5 / 3 + 1e-6), rel=1e-6)  # 2 * (1.5² + 0.5²) / (4 - 1)


@given(seed=st.integers(0, 99), gain=st.floats(0.5, 100), offset=st.floats(-100, 100))
def test_normalizing_forgets_brightness_and_contrast(seed, gain, offset):
    imgs = torch.randn(2, 3, 4, 12, generator=torch.Generator().manual_seed(seed))
    out = PixelTarget(4)(imgs)
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(-1), torch.ones(2, 3), rtol=1e-4, atol=0)
    torch.testing.assert_close(PixelTarget(4)(imgs * gain + offset), out, rtol=1e-2, atol=1e-2)


def test_stats_are_those_of_the_known_values():
    patches = torch.tensor([[[1.0, 2.0, 3.0, 0.0], [5.0, 0.0, 0.0, 0.0]]])
    mean, std = patch_stats(patches, torch.tensor([[[True, True, True, False], [True, False, False, False]]]))
    assert mean.flatten().tolist() == [2, 2.5]  # one value has no deviation; such patches are left out
    assert std[0, 0].item() == pytest.approx(math.sqrt(1 + 1e-6))
    full = torch.randn(2, 5, 12)
    for all_known, plain in zip(patch_stats(full, torch.ones(2, 5, 12, dtype=torch.bool)), patch_stats(full),
                                strict=True):
        torch.testing.assert_close(all_known, plain)


# --- errors


@pytest.mark.parametrize('loss_type, expected', [('l2', (1 + 4 + 9) / 3), ('l1', (1 + 2 + 3) / 3)])
def test_errors_of_the_known_values_by_hand(loss_type, expected):
    target = PixelTarget(2, 1, False, loss_type)
    valid = torch.tensor([[[[True, True], [True, False]]]])
    pred = torch.tensor([[[1.0, 2.0, 3.0, 1e6]]])
    assert target.errors(pred, torch.zeros(1, 1, 4), valid).item() == pytest.approx(expected)


def test_shares_of_known_values():
    valid = torch.ones(1, 2, 4, 8, dtype=torch.bool)
    valid[0, 0, :, :4] = False  # one band of the first patch
    valid[0, 0, 0, 4] = False
    assert with_data(valid, 4, 0.5).tolist() == [[True, True]]
    assert with_data(valid, 4, 0.51).tolist() == [[False, True]]
    assert with_data(valid, 4, 1.0).tolist() == [[False, False]]


def test_errors_by_hand():
    pred = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[0.0, 0.0], [2.0, 4.0]]])
    target = torch.tensor([[[0.0, 1.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 1.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    # squares: (1, 4), not counted, (1, 1), (0, 9)
    assert masked_means(patch_errors(pred, target), mask).tolist() == pytest.approx([2.5, (1 + 4.5) / 2])
    assert masked_means(patch_errors(pred, target, 'l1'), mask).tolist() == pytest.approx([1.5, (1 + 1.5) / 2])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_errors_are_computed_in_float32(dtype):
    pred, target = (torch.randn(2, 16, 12).to(dtype) for _ in range(2))
    errors = patch_errors(pred, target)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors, (pred.double() - target.double()).square().mean(-1).float())


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


def test_interpolation_never_looks_at_pixels_without_data():
    imgs, mask, valid = torch.full((1, 3, 32, 48), 5.0), random_mask(1, 24), torch.rand(1, 3, 32, 48) > 0.3
    out = interpolate_visible(imgs * valid, mask, 8, valid)
    torch.testing.assert_close(out, imgs)
    some = torch.randn(1, 3, 32, 48)
    plain = interpolate_visible(some, mask, 8)
    torch.testing.assert_close(interpolate_visible(some, mask, 8, torch.ones_like(valid)), plain)


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


def baseline_losses(imgs: Tensor, mask: Tensor, p: int, norm_pix: bool) -> tuple[Tensor, Tensor]:
    return tuple(masked_means(errors, mask) for errors in PixelTarget(p, imgs.shape[1], norm_pix).baselines(imgs, mask))


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


def test_flat_patches_by_hand():
    left = torch.arange(16.0).view(4, 4)  # of its patch the deviation is 4.8, of both together that and more
    for spread, flat in ((0.0, True), (0.01, True), (0.2, False)):
        img = torch.cat([left, 20 + spread * left], 1).expand(1, 2, 4, 8)
        assert flat_patches(img, 4).tolist() == [[False, flat]]
        assert flat_patches(img * 100 - 7, 4).tolist() == [[False, flat]]  # relative to the image
    assert flat_patches(torch.full((1, 1, 4, 8), 0.3), 4).all()


def test_flat_patches_are_those_of_the_known_values():
    left = torch.arange(16.0).view(4, 4)
    imgs = torch.cat([left, 20 + 0.01 * left, 20 + 0.2 * left], 1).expand(1, 2, 4, 12)
    valid = torch.ones_like(imgs) > 0
    valid[..., 0, ::2] = False
    for offset in (0, 1000):  # zeros would add a million to the variances, of the patches or of the image
        assert flat_patches((imgs + offset) * valid, 4, valid).tolist() == [[False, True, False]]
    assert flat_patches(imgs, 4, valid | True).tolist() == flat_patches(imgs, 4).tolist() == [[False, True, False]]


def test_baselines_are_per_image():
    imgs, mask = torch.randn(3, 3, 32, 32), random_mask(3, 16)
    together = baseline_losses(imgs, mask, 8, True)
    for i in range(3):
        alone = baseline_losses(imgs[i:i + 1], mask[i:i + 1], 8, True)
        for a, b in zip(alone, together, strict=True):
            assert b.shape == (3, ) and b.dtype == torch.float32
            torch.testing.assert_close(a, b[i:i + 1])


# --- pixels, PCA coefficients and tokens as targets of MAE


@pytest.mark.parametrize('norm_pix', [True, False])
def test_l1_and_all_patches_by_hand(make_mae, imgs, norm_pix):
    noise = torch.rand(2, 16)
    mae = make_mae(norm_pix_loss=norm_pix, loss_type='l1')
    pred, mask = mae.reconstruct(imgs, noise)
    difference = pred - mae.target(imgs)
    assert mae.loss(imgs, noise=noise)['loss'].item() == pytest.approx(difference[mask].abs().mean().item(), rel=1e-5)
    mae.loss_on = 'all'
    assert mae.loss(imgs, noise=noise)['loss'].item() == pytest.approx(difference.abs().mean().item(), rel=1e-5)
    result = mae.predict(imgs, noise=noise)[0]  # held-out numbers stay on what is hidden, in the loss's own units
    assert result['loss'].item() == pytest.approx(difference[0][mask[0]].abs().mean().item(), rel=1e-5)
    target = mae.target(imgs)[0]
    flat = (target - target.mean(-1, keepdim=True))[mask[0]]
    assert result['patch_mean'].item() == pytest.approx(flat.abs().mean().item(), rel=1e-4)


def pca_target(num_values: int = 5, **options) -> dict:
    return dict(type='mae_mm.PCATarget', num_values=num_values, **options)


def fitted_mae(make_mae, num_values: int = 5, **options):
    mae = make_mae(target=pca_target(num_values, **options))
    mae.target_generator.set_components(**fit_pca(torch.randn(500, 192) @ torch.randn(192, 192)))
    return mae


def test_pca_target_projects_and_draws(make_mae, imgs):
    mae, full = fitted_mae(make_mae), fitted_mae(make_mae, 192)
    assert mae.neck.decoder_pred.weight.shape == (5, 16) and mae.target(imgs).shape == (2, 16, 5)
    torch.testing.assert_close(full.to_images(full.target(imgs), imgs), imgs, rtol=1e-3, atol=1e-3)
    drawn = mae.to_images(mae.target(imgs), imgs)
    mean = mae.to_images(torch.zeros(2, 16, 5), imgs)
    assert 0 < (drawn - imgs).square().mean() < (mean - imgs).square().mean()  # the best that 5 of 192 can do
    torch.testing.assert_close(mae.target(drawn), mae.target(imgs), rtol=1e-3, atol=1e-3)
    noise = torch.rand(2, 16)
    pred, mask = mae.reconstruct(imgs, noise)
    expected = (pred - mae.target(imgs))[mask].square().mean()
    assert mae.loss(imgs, noise=noise)['loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    patches = patchify(imgs, 8)
    flat = unpatchify(patches.mean(-1, keepdim=True).expand_as(patches), 8, (4, 4))
    error = (mae.target(flat) - mae.target(imgs)).square().mean(-1)[0][mask[0]].mean()
    assert mae.predict(imgs, noise=noise)[0]['patch_mean'].item() == pytest.approx(error.item(), rel=1e-4)


def test_whitened_coefficients_have_variance_one(make_mae, tmp_path):
    """Of the patches that were fitted, also where a component is constant; a picture is drawn as without whitening."""
    patches = torch.randn(960, 192) * torch.logspace(0, -2, 192)
    patches[:, -1] = 0
    patches = patches @ torch.linalg.qr(torch.randn(192, 192))[0]
    mae, plain = (make_mae(target=pca_target(192, whiten=whiten)) for whiten in (True, False))
    for one in (mae, plain):
        one.target_generator.set_components(**fit_pca(patches))
    imgs = unpatchify(patches.view(60, 16, 192), 8, (4, 4))
    variances = mae.target(imgs).flatten(0, 1).var(0)
    torch.testing.assert_close(variances[:-1], torch.ones(191), rtol=1e-2, atol=1e-2)
    assert variances[-1] < 1.1 and plain.target(imgs).flatten(0, 1).var(0)[-2] < 1e-3
    torch.testing.assert_close(mae.to_images(mae.target(imgs), imgs), imgs, rtol=1e-3, atol=1e-3)
    assert 'target_generator.deviations' in mae.state_dict()
    assert 'target_generator.deviations' not in plain.state_dict()  # older checkpoints still load strictly


@pytest.mark.parametrize('options', [{}, dict(whiten=True)])
def test_checkpoint_holds_the_components_and_the_mask_token(make_mae, imgs, tmp_path, options):
    mae = fitted_mae(make_mae, **options)
    torch.save(dict(state_dict=mae.state_dict()), tmp_path / 'mae.pth')
    assert read_checkpoint(tmp_path / 'mae.pth').has_decoder
    other = make_mae(target=pca_target(**options))
    with pytest.raises(ValueError, match='no components'):
        other.loss(imgs)
    report = load_pretrained(other, tmp_path / 'mae.pth')
    assert 'target_generator.components' in report.matched and not report.ignored
    noise = torch.rand(2, 16)
    assert other.loss(imgs, noise=noise)['loss'] == mae.loss(imgs, noise=noise)['loss']

    first, second = make_mae(mask_token=True), make_mae(mask_token=True)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'm.pth')
    assert not torch.equal(first.mask_token, second.mask_token)
    load_pretrained(second, tmp_path / 'm.pth')
    assert torch.equal(first.mask_token, second.mask_token)


def token_mae(make_mae, tmp_path):
    weights = MODELS.build(dict(TOKENIZER, vocab_size=11)).state_dict()
    weights = {name: torch.randn_like(value) / math.sqrt(value[0].numel()) for name, value in weights.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'dvae.pth')
    return make_mae(target=dict(TOKENS, weights=str(tmp_path / 'dvae.pth')))


def test_tokens_of_a_random_tokenizer(make_mae, tmp_path, imgs):
    mae, noise = token_mae(make_mae, tmp_path), torch.rand(2, 16)
    tokens = mae.target(imgs)
    assert tokens.shape == (2, 16) and tokens.dtype == torch.int64 and len(tokens.unique()) > 1
    pred, mask = mae.reconstruct(imgs, noise)
    assert pred.shape == (2, 16, 11)
    expected = -pred.log_softmax(-1).gather(-1, tokens[..., None])[..., 0][mask].mean()
    loss = mae.loss(imgs, noise=noise)['loss']
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(param.grad is None for param in mae.target_generator.parameters())
    assert mae.predict(imgs)[0]['patch_mean'].item() == pytest.approx(math.log(11))
    assert not mae.train().target_generator.tokenizer.training


def test_tokenizer_gets_the_pixels_of_dalle(make_mae, tmp_path, imgs):
    """Eight pixels a token, in 0.1 … 0.9 whatever the model's own normalisation."""
    mae, seen = token_mae(make_mae, tmp_path), []
    mae.target_generator.tokenizer.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    pixels = torch.full((1, 3, 16, 32), 255.0)
    pixels[..., 16:] = 0
    mae.target(mae.data_preprocessor(dict(inputs=pixels))['inputs'])
    assert seen[0].shape == (1, 3, 16, 32)  # 2 x 4 patches of 8 px
    torch.testing.assert_close(seen[0], 0.8 * pixels / 255 + 0.1, rtol=0, atol=1e-5)


def test_tokenizer_without_its_weights_is_refused(make_mae, tmp_path):
    with pytest.raises(ValueError, match=r'model\.target\.weights=FILE'):
        make_mae(target=TOKENS)
    torch.save({'blocks.input.w': torch.zeros(1)}, tmp_path / 'bad.pth')
    with pytest.raises(RuntimeError, match='Missing key'):
        make_mae(target=dict(TOKENS, weights=str(tmp_path / 'bad.pth')))


def test_pixels_have_no_weights(make_mae):
    """Pixels need no weights: the default model has exactly the published ones."""
    assert isinstance(make_mae().target_generator, nn.Module) and not make_mae().target_generator.state_dict()
