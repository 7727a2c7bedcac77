import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import numpy_mae
from mmengine.structures import BaseDataElement
from torch import nn

from mae_mm.models.mae import MAE
from mae_mm.models.masking import SAMPLERS, fixed_noise, random_masking
from mae_mm.models.patches import patchify
from mae_mm.models.positions import sincos_table
from mae_mm.models.targets import flat_patches, masked_means


def release_names(named: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix('backbone.').removeprefix('neck.'): value.detach().numpy() for name, value in named.items()}


def assert_parity(mae: MAE, imgs: torch.Tensor, noise: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Loss, prediction and every gradient against NumPy, relative to the largest number of each tensor."""
    expected = numpy_mae.run(
        release_names(mae.state_dict()), imgs.numpy(), noise.numpy(), mae.backbone.patch_size,
        mae.backbone.blocks[0].attn.num_heads, mae.neck.decoder_blocks[0].attn.num_heads, mae.mask_ratio,
        mae.norm_pix_loss)
    with torch.no_grad():
        out = mae.reconstruct(imgs, noise)
    assert np.array_equal(out.mask.numpy(), expected.mask)
    assert np.abs(out.pred.numpy() - expected.pred).max() <= tolerance * np.abs(expected.pred).max()

    mae.zero_grad()
    loss = mae(imgs, noise=noise, mode='loss')['loss']
    assert loss.item() == pytest.approx(expected.loss, rel=tolerance)
    loss.backward()
    trained = {name: param.grad for name, param in mae.named_parameters() if param.requires_grad}
    grads = release_names(trained)
    assert set(grads) == set(expected.grads)
    for name, grad in grads.items():
        assert np.abs(grad - expected.grads[name]).max() <= tolerance * np.abs(expected.grads[name]).max(), name


# --- parity with an independent implementation


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size, patch, in_chans, norm_pix, ratio', [
    ((32, 32), 8, 3, True, 0.75),
    ((32, 32), 8, 3, False, 0.75),
    ((16, 48), 8, 3, True, 0.5),
    ((48, 16), 8, 1, False, 0.9),
    ((24, 20), 4, 5, True, 0.3),
    ((12, 30), 6, 2, False, 0.05),
])
def test_equals_numpy(make_mae, size, patch, in_chans, norm_pix, ratio, dtype):
    mae = make_mae(
        backbone=dict(img_size=size, patch_size=patch, in_chans=in_chans), neck=dict(depth=2), mask_ratio=ratio,
        norm_pix_loss=norm_pix).to(dtype)
    num_patches = size[0] // patch * (size[1] // patch)
    assert_parity(mae, torch.randn(3, in_chans, *size, dtype=dtype), torch.rand(3, num_patches))


def test_vit_b16_equals_numpy():
    """The published size: ViT-B/16 on 224 px with a decoder of 8 x 512."""
    mae = MAE(dict(type='mae_mm.ViT'), dict(type='mae_mm.MAEDecoder'))
    mae.init_weights()
    shapes = {name: tuple(value.shape) for name, value in mae.state_dict().items()}
    assert shapes['backbone.pos_embed'] == (1, 197, 768)
    assert shapes['backbone.patch_embed.proj.weight'] == (768, 3, 16, 16)
    assert shapes['neck.decoder_pos_embed'] == (1, 197, 512)
    assert shapes['neck.decoder_pred.weight'] == (768, 512)
    assert shapes['backbone.blocks.11.mlp.fc2.weight'] == (768, 3072)
    assert shapes['neck.decoder_blocks.7.mlp.fc2.weight'] == (512, 2048)
    assert (mae.backbone.blocks[0].attn.num_heads, mae.neck.decoder_blocks[0].attn.num_heads) == (12, 16)
    assert_parity(mae, torch.randn(1, 3, 224, 224), torch.rand(1, 196))


def test_numpy_gradients_are_those_of_its_loss(make_mae):
    """The reference against itself: central differences along random directions, one for each parameter."""
    mae = make_mae(backbone=dict(img_size=(16, 24), in_chans=1))
    params = {name: value.astype(float) for name, value in release_names(mae.state_dict()).items()}
    imgs, noise = torch.randn(2, 1, 16, 24).numpy(), torch.rand(2, 6).numpy()

    def run(**changed: np.ndarray) -> numpy_mae.Answer:
        return numpy_mae.run({**params, **changed}, imgs, noise, 8, 2, 2, mask_ratio=0.5, norm_pix=True)

    rng = np.random.default_rng(0)
    for name, grad in run().grads.items():
        step = 1e-4 * rng.standard_normal(grad.shape)
        change = run(**{name: params[name] + step}).loss - run(**{name: params[name] - step}).loss
        assert change / 2 == pytest.approx((grad * step).sum(), rel=1e-4, abs=1e-10), name


# --- what is seen, and what is predicted


def test_prediction_does_not_depend_on_masked_pixels(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    inputs = imgs.clone().requires_grad_()
    pred, mask = mae.reconstruct(inputs, noise)
    pred.square().sum().backward()
    grad = patchify(inputs.grad, 8)
    assert (grad[mask] == 0).all() and (grad[~mask] != 0).all()

    for p in range(16):  # write nonsense over what is hidden
        row, col = p // 4 * 8, p % 4 * 8
        inputs.data[mask[:, p], :, row:row + 8, col:col + 8] = 1e4
    assert not torch.equal(inputs, imgs)
    assert torch.equal(mae.reconstruct(inputs, noise).pred, pred)


def test_encoder_runs_on_visible_patches_only(make_mae, imgs):
    mae, lengths = make_mae(mask_ratio=0.75), []
    for block in (*mae.backbone.blocks, *mae.neck.decoder_blocks):
        block.register_forward_hook(lambda module, args, out: lengths.append(out.shape[1]))
    mae.reconstruct(imgs)
    assert lengths == [5, 5, 17]  # a class token with 4 of 16 patches, then with all


@pytest.mark.parametrize('norm_pix', [True, False])
def test_loss_has_no_gradient_on_visible_patches(make_mae, imgs, norm_pix):
    mae, noise = make_mae(norm_pix_loss=norm_pix), torch.rand(2, 16)
    kept = {}
    mae.neck.register_forward_hook(lambda module, args, out: (out.retain_grad(), kept.update(pred=out))[1])
    mae.loss(imgs, noise=noise)['loss'].backward()
    mask = random_masking(noise, 0.75).mask
    assert (kept['pred'].grad[~mask] == 0).all() and (kept['pred'].grad[mask] != 0).all()


def test_loss_ignores_visible_targets(make_mae, imgs, monkeypatch):
    mae, noise = make_mae(), torch.rand(2, 16)
    mask = random_masking(noise, 0.75).mask
    expected, target = mae.loss(imgs, noise=noise)['loss'], mae.target(imgs)
    monkeypatch.setattr(mae, 'target', lambda inputs, valid: torch.where(mask[..., None], target, 99.0))
    assert mae.loss(imgs, noise=noise)['loss'] == expected
    monkeypatch.setattr(mae, 'target', lambda inputs, valid: torch.where(mask[..., None], 99.0, target))
    assert mae.loss(imgs, noise=noise)['loss'] > 1000


# --- decoder


def test_decoder_restores_the_order(make_mae, imgs):
    """Without blocks a prediction depends on its own token alone, so it can be computed by hand."""
    mae, noise = make_mae(backbone=dict(img_size=(16, 64)), neck=dict(depth=0)), torch.rand(1, 16)
    imgs = imgs[:1].reshape(1, 3, 16, 64)
    neck = mae.neck
    pred, mask = mae.reconstruct(imgs, noise)
    tokens = mae.backbone.embed(imgs)
    visible = (~mask[0]).nonzero().flatten()
    latent = neck.decoder_embed(mae.backbone.encode(tokens[:, visible]))[0, 1:]
    positions = sincos_table(16, (2, 8))
    for patch in range(16):
        token = neck.mask_token[0, 0] if mask[0, patch] else latent[visible.tolist().index(patch)]
        expected = neck.decoder_pred(neck.decoder_norm(token + positions[patch]))
        torch.testing.assert_close(pred[0, patch], expected, rtol=1e-4, atol=1e-5)


def test_only_which_patches_are_visible_matters(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    out, mask = mae.reconstruct(imgs, noise)
    reversed_order = torch.where(mask, 2 - noise, 1 - noise)  # the same patches are visible, the last of them first
    assert torch.equal(random_masking(reversed_order, 0.75).mask, mask)
    assert not torch.equal(random_masking(reversed_order, 0.75).ids_restore, random_masking(noise, 0.75).ids_restore)
    torch.testing.assert_close(mae.reconstruct(imgs, reversed_order).pred, out, rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_do_not_meet(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    together = mae.reconstruct(imgs, noise)
    for i in range(2):
        alone = mae.reconstruct(imgs[i:i + 1], noise[i:i + 1])
        torch.testing.assert_close(alone.pred, together.pred[i:i + 1], rtol=1e-4, atol=1e-5)
        assert torch.equal(alone.mask, together.mask[i:i + 1])


@pytest.mark.parametrize('size', [(16, 64), (64, 16), (40, 24), (64, 64)])
def test_images_of_another_size(make_mae, size):
    mae, imgs = make_mae(), torch.randn(2, 3, *size)
    num_patches = size[0] * size[1] // 64
    pred, mask = mae.reconstruct(imgs, torch.rand(2, num_patches))
    assert pred.shape == (2, num_patches, 192) and mask.shape == (2, num_patches)
    assert (~mask).sum(1).tolist() == [num_patches // 4] * 2
    assert mae.to_images(pred, imgs).shape == imgs.shape
    assert mae.predict(imgs)[0]['reconstruction'].shape == (3, *size)


def test_decoder_reads_what_it_needs_from_the_encoder(make_mae):
    neck = make_mae(backbone=dict(img_size=(16, 48), in_chans=5)).neck
    assert neck.decoder_embed.weight.shape == (16, 32)
    assert neck.decoder_pred.weight.shape == (8 * 8 * 5, 16)
    assert neck.decoder_blocks[0].mlp.fc1.weight.shape == (64, 16)  # the paper's MLPs are 4 times as wide
    assert torch.equal(neck.decoder_pos_embed[0, 1:], sincos_table(16, (2, 6)))
    assert not neck.decoder_pos_embed[0, 0].any()


# --- variants (Table 1)


def test_mask_tokens_lengthen_the_encoder_and_hide_the_same(make_mae, imgs):
    mae, noise, lengths = make_mae(mask_token=True), torch.rand(2, 16), []
    for block in (*mae.backbone.blocks, *mae.neck.decoder_blocks):
        block.register_forward_hook(lambda module, args, out: lengths.append(out.shape[1]))
    inputs = imgs.clone().requires_grad_()
    pred, mask = mae.reconstruct(inputs, noise)
    assert lengths == [17, 17, 17]
    assert torch.equal(mask, random_masking(noise, 0.75).mask)
    pred.square().sum().backward()
    grad = patchify(inputs.grad, 8)
    assert (grad[mask] == 0).all() and (grad[~mask] != 0).all()
    assert mae.mask_token.grad.abs().max() > 0


def test_mask_tokens_have_the_positions_of_what_they_hide(make_mae, imgs):
    """With every patch hidden but one, two masks differ in positions alone: predictions must follow the positions."""
    mae = make_mae(mask_token=True, mask_ratio=0.5, backbone=dict(img_size=(16, 48)), neck=dict(depth=0))
    imgs, noise = torch.randn(1, 3, 16, 48), torch.rand(1, 12)
    pred, mask = mae.reconstruct(imgs, noise)
    tokens = mae.backbone.embed(imgs)
    hidden = (mae.mask_token + mae.backbone.positions((2, 6)))[0]
    seen = torch.where(mask[0][:, None], hidden, tokens[0])[None]  # in image order
    latent = mae.neck.decoder_embed(mae.backbone.encode(seen))[:, 1:] + mae.neck.decoder_pos_embed[:, 1:]
    torch.testing.assert_close(pred, mae.neck.decoder_pred(mae.neck.decoder_norm(latent)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('sampling', SAMPLERS)
def test_every_sampler_trains_on_a_rectangle(make_mae, sampling):
    mae, imgs = make_mae(mask_sampling=sampling), torch.randn(2, 3, 32, 64)
    loss = mae.loss(imgs)['loss']
    loss.backward()
    assert loss.isfinite() and mae.predict(imgs)[0]['mask'].float().mean() == 0.75


@pytest.mark.parametrize('options, message', [
    (dict(mask_sampling='blocks'), "mask_sampling='blocks'.*random, block, grid"),
    (dict(loss_on='visible'), "loss_on='visible'"),
    (dict(loss_type='huber'), "loss_type='huber' must be 'l2'"),
    (dict(loss_type='l1', target=dict(type='mae_mm.PCATarget')), 'is for pixels, not .* mae_mm.PCATarget'),
])
def test_unknown_options_are_refused(make_mae, options, message):
    with pytest.raises(ValueError, match=message):
        make_mae(**options)


# --- target


def test_target_by_hand(make_mae):
    imgs = torch.tensor([[1.0, 2.0, 5.0, 5.0], [3.0, 4.0, 5.0, 5.0]]).view(1, 1, 2, 4)
    options = dict(backbone=dict(img_size=(2, 4), patch_size=2, in_chans=1), mask_ratio=0.5)
    assert make_mae(**options, norm_pix_loss=False).target(imgs).tolist() == [[[1, 2, 3, 4], [5, 5, 5, 5]]]
    normalised = make_mae(**options, norm_pix_loss=True).target(imgs)[0]
    assert normalised[0].tolist() == pytest.approx([-1.1618947, -0.3872982, 0.3872982, 1.1618947], rel=1e-5)
    assert normalised[1].tolist() == [0] * 4


@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize('size', [(32, 32), (16, 40)])
def test_to_images_inverts_target(make_mae, norm_pix, size):
    mae, imgs = make_mae(norm_pix_loss=norm_pix), 3 * torch.randn(2, 3, *size) + 1
    torch.testing.assert_close(mae.to_images(mae.target(imgs), imgs), imgs, rtol=1e-4, atol=1e-4)


# --- as an mmpretrain algorithm


def test_tensor_mode_is_the_features_of_the_whole_image(make_mae, imgs):
    mae = make_mae()
    for feats in (mae(imgs), mae(imgs, mode='tensor'), mae.extract_feat(imgs)):
        assert isinstance(feats, tuple) and torch.equal(feats[0], mae.backbone(imgs)[0])
        assert feats[0].shape == (2, 17, 32)


def test_loss_mode(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    losses = mae(imgs, [BaseDataElement(), BaseDataElement()], mode='loss', noise=noise, img_path=['a', 'b'])
    assert set(losses) == {'loss'} and losses['loss'].shape == ()
    pred, mask = mae.reconstruct(imgs, noise)
    assert losses['loss'].item() == pytest.approx((pred - mae.target(imgs))[mask].square().mean().item(), rel=1e-6)


def test_same_noise_same_result_and_fresh_noise_otherwise(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    assert mae.loss(imgs, noise=noise)['loss'] == mae.loss(imgs, noise=noise)['loss']
    assert mae.loss(imgs)['loss'] != mae.loss(imgs)['loss']
    torch.manual_seed(5)
    first = mae.loss(imgs)['loss']
    torch.manual_seed(5)
    assert mae.loss(imgs)['loss'] == first  # drawn from torch's own generator


def test_another_mode_is_refused(make_mae, imgs):
    with pytest.raises(ValueError, match="mode='train' must be one of 'tensor', 'loss', 'predict'"):
        make_mae()(imgs, mode='train')


@pytest.mark.parametrize('norm_pix', [True, False])
def test_loss_is_float32_under_autocast(make_mae, imgs, norm_pix):
    mae, noise = make_mae(norm_pix_loss=norm_pix), torch.rand(2, 16)
    exact = mae.loss(imgs, noise=noise)['loss'].item()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = mae.loss(imgs, noise=noise)['loss']
        pred, mask = mae.reconstruct(imgs, noise)
    assert loss.dtype == torch.float32 and pred.dtype == torch.bfloat16
    target = mae.target(imgs)
    assert loss.item() == pytest.approx((pred.double() - target.double())[mask].square().mean().item(), rel=1e-6)
    assert loss.item() == pytest.approx(exact, rel=0.02) and loss.item() != exact


def test_training_learns_and_leaves_the_position_tables_alone(make_mae, imgs):
    mae, noise = make_mae(), torch.rand(2, 16)
    frozen = {name for name, param in mae.named_parameters() if not param.requires_grad}
    assert frozen == {'backbone.pos_embed', 'neck.decoder_pos_embed'}
    tables = [mae.backbone.pos_embed.clone(), mae.neck.decoder_pos_embed.clone()]
    optimizer = torch.optim.AdamW(mae.parameters(), lr=1e-2, weight_decay=0.5)
    losses = []
    for _ in range(40):
        loss = mae.loss(imgs, noise=noise)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(mae.backbone.pos_embed, tables[0]) and torch.equal(mae.neck.decoder_pos_embed, tables[1])


# --- predict


@pytest.mark.parametrize('norm_pix', [True, False])
def test_predict_gives_losses_baselines_and_pictures(make_mae, imgs, norm_pix):
    mae, noise = make_mae(norm_pix_loss=norm_pix).eval(), torch.rand(2, 16)
    with torch.no_grad():
        results = mae(imgs, mode='predict', noise=noise)
        pred, mask = mae.reconstruct(imgs, noise)
        batch_loss = mae.loss(imgs, noise=noise)['loss']
    assert len(results) == 2
    baselines = [masked_means(errors, mask) for errors in mae.target_generator.baselines(imgs, mask)]
    for i, result in enumerate(results):
        assert set(result) == {'loss', 'patch_mean', 'interpolation', 'flat', 'reconstruction', 'mask'}
        assert torch.equal(result['mask'], mask[i]) and result['flat'] == 0
        for name, value in zip(('patch_mean', 'interpolation'), baselines, strict=True):
            assert result[name].dtype == torch.float32 and result[name] == value[i]
        torch.testing.assert_close(result['reconstruction'], mae.to_images(pred, imgs)[i])
        expected = (pred - mae.target(imgs))[i][mask[i]].square().mean()
        assert result['loss'].dtype == torch.float32
        torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(sum(result['loss'] for result in results) / 2, batch_loss)


def digits(size: int) -> torch.Tensor:
    """Bright strokes on black, as scanned digits are: (64, 3, size, size), normalised as a preprocessor would."""
    strokes = torch.rand(64, 1, 6, 4, generator=torch.Generator().manual_seed(0)).gt(0.4).float()
    imgs = F.interpolate(F.pad(strokes, (2, 2, 1, 1)), (size, size), mode='bilinear').expand(-1, 3, -1, -1)
    return (imgs - imgs.mean()) / imgs.std()


def test_no_patch_of_a_black_background_outweighs_the_others(make_mae):
    """The interpolation read 1,000 and more: flat patches have no deviation to divide by."""
    mae, imgs = make_mae().eval(), digits(32)
    with torch.no_grad():
        results = mae.predict(imgs)
        pred, mask = mae.reconstruct(imgs, fixed_noise(range(64), 16))
    flat = flat_patches(imgs, 8)
    errors = mae.target_generator.errors(pred, mae.target(imgs))
    mean_error, interpolated = mae.target_generator.baselines(imgs, mask)
    assert interpolated[mask & flat].max() > 1000 > 400 > interpolated[mask & ~flat].max()
    for name, each in dict(loss=errors, patch_mean=mean_error, interpolation=interpolated).items():
        expected = torch.stack([each[i][(mask & ~flat)[i]].mean() for i in range(64)])
        torch.testing.assert_close(torch.stack([result[name] for result in results]), expected, msg=name)
    assert 0.5 < sum(result['interpolation'] for result in results) / 64 < 3
    share = sum(result['flat'] for result in results) / 64
    assert 0 < share < 0.5 and share.item() == pytest.approx((mask & flat).sum().item() / mask.sum().item())
    # In units that are not divided by a deviation they count as the others do.
    assert sum(result['flat'] for result in make_mae(norm_pix_loss=False).predict(imgs)) == 0


def test_blank_images_are_not_judged(make_mae):
    result, = make_mae().predict(torch.zeros(1, 3, 32, 32))
    assert result['flat'] == 1 and result['loss'] == result['interpolation'] == 0


def test_held_out_masks_never_change(make_mae):
    mae, imgs, numbers = make_mae().eval(), torch.randn(4, 3, 32, 32), torch.tensor([3, 0, 11, 7])
    with torch.no_grad():
        first, again = (mae(imgs, mode='predict', sample_idx=numbers) for _ in range(2))
        regrouped = mae(imgs[2:3], mode='predict', sample_idx=numbers[2:3])
    expected = random_masking(fixed_noise([3, 0, 11, 7], 16), 0.75).mask
    for i in range(4):
        assert torch.equal(first[i]['mask'], expected[i])
        assert torch.equal(again[i]['mask'], expected[i]) and again[i]['loss'] == first[i]['loss']
    assert torch.equal(regrouped[0]['mask'], expected[2])
    torch.testing.assert_close(regrouped[0]['loss'], first[2]['loss'], rtol=1e-4, atol=1e-6)


def test_predict_without_numbers_counts_from_0(make_mae, imgs):
    masks = [result['mask'] for result in make_mae().predict(imgs)]
    assert torch.equal(torch.stack(masks), random_masking(fixed_noise([0, 1], 16), 0.75).mask)


def test_predict_reports_float32_numbers_under_autocast(make_mae):
    """Losses and baselines do not depend on the precision of the forward pass; only the prediction does."""
    mae = make_mae().eval()
    imgs = torch.arange(32.0).expand(2, 3, 32, 32) + torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = mae.predict(imgs)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            results = mae.predict(imgs)
            pred, mask = mae.reconstruct(imgs, fixed_noise([0, 1], 16))
    for i, (result, reference) in enumerate(zip(results, exact, strict=True)):
        assert result['loss'].item() == pytest.approx(
            (pred.float() - mae.target(imgs))[i][mask[i]].square().mean().item(), rel=1e-5)
        for name in ('patch_mean', 'interpolation'):
            assert result[name].item() == pytest.approx(reference[name].item(), rel=1e-5), name


def test_a_perfect_prediction_has_no_loss(make_mae, imgs, monkeypatch):
    mae = make_mae()
    monkeypatch.setattr(mae.neck, 'forward', lambda latent, ids_restore, grid: mae.target(imgs))
    for result, img in zip(mae.predict(imgs), imgs, strict=True):
        assert result['loss'] == 0 and result['patch_mean'] > 0.9
        torch.testing.assert_close(result['reconstruction'], img, rtol=1e-4, atol=1e-4)


# --- names and initialisation


BLOCK = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')


def test_parameters_have_the_names_of_the_release(make_mae):
    layers = ['backbone.patch_embed.proj', 'backbone.norm']
    layers += ['neck.decoder_embed', 'neck.decoder_norm', 'neck.decoder_pred']
    layers += [f'backbone.blocks.{i}.{part}' for i in range(2) for part in BLOCK]
    layers += [f'neck.decoder_blocks.{i}.{part}' for i in range(3) for part in BLOCK]
    expected = {f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')}
    expected |= {'backbone.cls_token', 'backbone.pos_embed', 'neck.mask_token', 'neck.decoder_pos_embed'}
    assert set(make_mae(neck=dict(depth=3)).state_dict()) == expected


def test_initialisation_reaches_encoder_and_decoder():
    mae = MAE(
        dict(type='mae_mm.ViT', arch=dict(embed_dim=64, depth=1, num_heads=2), img_size=32, patch_size=8),
        dict(type='mae_mm.MAEDecoder', embed_dim=128, depth=1, num_heads=2))
    for name, param in mae.named_parameters():
        if not name.endswith('pos_embed'):
            param.data.fill_(9)
    mae.init_weights()
    linear = [module for module in mae.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 4 + 4 + 2
    for layer in linear:
        bound = (6 / (layer.in_features + layer.out_features))**0.5
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert (layer.bias == 0).all()
    for token in (mae.backbone.cls_token, mae.neck.mask_token):
        assert 0.013 < token.std() < 0.027 and token.abs().max() < 0.1
    for norm in (mae.backbone.norm, mae.neck.decoder_norm):
        assert (norm.weight == 1).all() and (norm.bias == 0).all() and norm.eps == 1e-6


# --- mistakes


@pytest.mark.parametrize('ratio', [0, 1, 75, -0.25, float('nan')])
def test_ratio_that_masks_nothing_or_everything_is_refused(make_mae, ratio):
    with pytest.raises(ValueError, match=rf'mask_ratio={ratio} must be in \(0, 1\).*0.75'):
        make_mae(mask_ratio=ratio)


def test_ratio_that_leaves_nothing_visible_is_refused(make_mae):
    with pytest.raises(ValueError, match=r'mask_ratio=0\.95 must .* leave one of 16 patches visible'):
        make_mae(mask_ratio=0.95).loss(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize('mode', ['tensor', 'loss', 'predict'])
@pytest.mark.parametrize('shape, message', [
    ((1, 3, 32, 30), '32x30 px .* patches of 8 px; resize or crop it to a multiple, e.g. 32x32'),
    ((1, 1, 32, 32), 'images have 1 channels, the model takes 3; set backbone.in_chans'),
])
def test_bad_image_is_refused(make_mae, mode, shape, message):
    with pytest.raises(ValueError, match=message):
        make_mae()(torch.zeros(shape), mode=mode)


@pytest.mark.parametrize('shape', [(1, 16), (2, 15), (3, 16), (2, 17)])
def test_noise_that_does_not_fit_is_refused(make_mae, imgs, shape):
    """Gathers and sums broadcast: without a check, one row of noise gives a loss of wrong pairs of images."""
    with pytest.raises(ValueError, match='noise'):
        make_mae().loss(imgs, noise=torch.rand(shape))


@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap', 'featmap'])
def test_backbone_that_is_not_raw_is_refused(make_mae, out_type):
    """Its encoder would have no final norm (or the weights of another one): silently a different method."""
    with pytest.raises(ValueError, match=f"out_type='{out_type}'"):
        make_mae(backbone=dict(out_type=out_type))


def test_decoder_width_and_heads_that_do_not_fit_are_refused(make_mae):
    with pytest.raises(ValueError, match='embed_dim=18'):
        make_mae(neck=dict(embed_dim=18))
    with pytest.raises(ValueError, match='num_heads'):
        make_mae(neck=dict(embed_dim=16, num_heads=3))


# --- pixels without data


def holes(imgs: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) bool: single pixels are missing everywhere, and most of the left column of patches."""
    valid = torch.rand(imgs.shape, generator=torch.Generator().manual_seed(1)) > 0.1
    valid[..., :7] = False
    return valid


@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize('loss_on', ['masked', 'all'])
def test_data_everywhere_is_the_ordinary_loss(make_mae, imgs, norm_pix, loss_on):
    mae, noise, valid = make_mae(norm_pix_loss=norm_pix, loss_on=loss_on), torch.rand(2, 16), torch.ones_like(imgs) > 0
    plain = mae.loss(imgs, noise=noise)['loss']
    torch.testing.assert_close(mae.loss(imgs, noise=noise, valid=valid)['loss'], plain)
    for one, other in zip(mae.predict(imgs, noise=noise, valid=valid), mae.predict(imgs, noise=noise), strict=True):
        for key, value in other.items():
            torch.testing.assert_close(one[key], value, msg=key)


@pytest.mark.parametrize('norm_pix', [True, False])
def test_pixels_without_data_do_not_count(make_mae, imgs, norm_pix):
    """The loss by hand, pixel by pixel; and no gradient where there is no data, or too little."""
    mae, noise, valid = make_mae(norm_pix_loss=norm_pix), torch.rand(2, 16), holes(imgs)
    imgs = imgs * valid
    pred, mask = mae.reconstruct(imgs, noise)
    pred = pred.detach().requires_grad_()
    loss = mae.compare(pred, mask, imgs, valid)
    patches, known = patchify(imgs, 8).double(), patchify(valid, 8)
    enough = known.double().mean(-1) >= 0.5
    assert (enough == torch.arange(16).remainder(4).ne(0)).all()
    expected = []
    for i, j in (mask & enough).nonzero().tolist():
        true, guess = patches[i, j][known[i, j]], pred[i, j][known[i, j]].double()
        if norm_pix:
            true = (true - true.mean()) / (true.var() + 1e-6).sqrt()
        expected.append((true - guess).square().mean())
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean())
    loss.backward()
    assert (pred.grad.ne(0) == (known & (mask & enough)[..., None])).all()


def test_images_without_any_data_have_no_loss(make_mae, imgs):
    mae = make_mae()
    loss = mae.loss(torch.zeros_like(imgs), valid=torch.zeros_like(imgs) > 0)['loss']
    loss.backward()
    assert loss == 0 and all(torch.isfinite(one.grad).all() for one in mae.parameters() if one.grad is not None)


def test_predictions_leave_out_the_same_pixels(make_mae, imgs):
    mae, noise, valid = make_mae().eval(), torch.rand(2, 16), holes(imgs)
    with torch.no_grad():
        results = mae.predict(imgs * valid, noise=noise, valid=valid)
        mask = mae.reconstruct(imgs * valid, noise).mask
    left = torch.arange(16).remainder(4).eq(0)
    for i, result in enumerate(results):
        assert result['flat'].item() == pytest.approx((mask[i] & left).sum().item() / mask[i].sum().item())
        assert all(torch.isfinite(value).all() for value in result.values())
        assert 0.5 < result['patch_mean'] < 1.5


def test_patches_of_one_colour_at_the_border_of_the_data_are_flat(make_mae, imgs):
    """The zeros in place of missing pixels do not make them count: the target is divided by almost 0."""
    mae, noise, valid = make_mae().eval(), torch.arange(16.0).flip(0).expand(2, 16), torch.ones_like(imgs) > 0
    imgs, valid[..., :3] = imgs.clone(), False
    imgs[..., :8, :8] = 2.0  # the first of the 12 masked patches; 3/8 of it are missing
    with torch.no_grad():
        results = mae.predict(imgs * valid, noise=noise, valid=valid)
    for result in results:
        assert result['mask'][0] and result['flat'].item() == pytest.approx(1 / 12)
        assert 0.9 < result['patch_mean'] < 1 and result['interpolation'] < 5


def test_nan_from_the_loader_becomes_a_mask(make_mae, imgs):
    """The whole way of a training step: NaN in, the loss of the rest out."""
    mae = make_mae(data_preprocessor=dict(type='mae_mm.ImagePreprocessor', mean=[1.0], std=[2.0]))
    noise, valid = torch.rand(2, 16), holes(imgs)
    batch = mae.data_preprocessor(dict(inputs=imgs.where(valid, torch.nan), noise=noise), training=True)
    loss = mae(**batch, mode='loss')['loss']
    expected = mae.loss(((imgs - 1) / 2).where(valid, 0), noise=noise, valid=valid)['loss']
    assert loss.isfinite() and torch.equal(loss, expected)
