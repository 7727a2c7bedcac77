import math
import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mae_mm.benchmark.images import draw_jpegs
from mae_mm.checkpoint import load_pretrained, read_checkpoint
from mae_mm.models.masking import SAMPLERS, random_masking
from mae_mm.models.patches import patchify, unpatchify
from mae_mm.models.pca import fit_pca, fit_to_file
from mae_mm.registry import MODELS

TOKENIZER = dict(type='mmpretrain.DALL-E', n_hid=4, n_blk_per_group=1)
TOKENS = dict(type='mae_mm.TokenTarget', tokenizer=TOKENIZER, num_values=11)


def pca_target(num_values: int = 5) -> dict:
    return dict(type='mae_mm.PCATarget', num_values=num_values)


def fitted_mae(make_mae, num_values: int = 5):
    mae = make_mae(target=pca_target(num_values))
    basis = fit_pca(torch.randn(500, 192) @ torch.randn(192, 192))
    mae.target_generator.set_components(basis['mean'], basis['components'])
    return mae


# --- pixels


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


# --- [M] in the encoder


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
    (dict(loss_type='huber'), "loss_type='huber' is none of 'l2'"),
    (dict(loss_type='l1', target=pca_target()), 'is for pixels, not for a target of type mae_mm.PCATarget'),
    (dict(target=pca_target(193)), 'a patch has 192 principal components'),
])
def test_unknown_options_are_refused(make_mae, options, message):
    with pytest.raises(ValueError, match=message):
        make_mae(**options)


# --- PCA


def test_pca_by_hand():
    """Four points on a line through (1, 1) along (3, 4) / 5."""
    basis = fit_pca(torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]) * torch.tensor([0.6, 0.8]) + 1)
    assert basis['mean'].tolist() == pytest.approx([1, 1])
    assert basis['components'][0].abs().tolist() == pytest.approx([0.6, 0.8])
    assert basis['variances'].tolist() == pytest.approx([10 / 3, 0], abs=1e-6)


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


def test_checkpoint_holds_the_components_and_the_mask_token(make_mae, imgs, tmp_path):
    mae = fitted_mae(make_mae)
    torch.save(dict(state_dict=mae.state_dict()), tmp_path / 'mae.pth')
    assert read_checkpoint(tmp_path / 'mae.pth').has_decoder
    other = make_mae(target=pca_target())
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


@pytest.fixture
def demo_config(tmp_path) -> Config:
    draw_jpegs(tmp_path / 'imgs', 12, 40, 48)
    return Config(dict(
        model=dict(
            type='mae_mm.MAE', data_preprocessor=dict(type='mae_mm.ImagePreprocessor'),
            backbone=dict(type='mae_mm.ViT', arch=dict(embed_dim=32, depth=1, num_heads=2), img_size=32, patch_size=4),
            neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
            target=dict(type='mae_mm.PCATarget', num_values=9, fitted=str(tmp_path / 'pca.pth'))),
        train_dataloader=dict(dataset=dict(
            type='mae_mm.ImageFolder', data_root=str(tmp_path / 'imgs'),
            pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=32)]))))


def test_components_fitted_to_a_folder_of_images(demo_config):
    model = MODELS.build(demo_config.model)
    with pytest.raises(FileNotFoundError, match=r'make it: python tools/fit_pca\.py'):
        model.init_weights()
    basis = fit_to_file(demo_config, demo_config.model.target.fitted, num_images=12)
    assert basis['components'].shape == (48, 48) and (basis['variances'].diff() <= 0).all()
    share = basis['variances'].cumsum(0) / basis['variances'].sum()
    assert share[8] > 0.8  # images are smooth
    model = MODELS.build(demo_config.model)
    model.init_weights()
    assert torch.equal(model.target_generator.components, basis['components'][:9])
    demo_config.model.backbone.patch_size = 8
    with pytest.raises(ValueError, match=r'48 components of 48 values do not serve .* of 192 values'):
        MODELS.build(demo_config.model).init_weights()
    with pytest.raises(ValueError, match='too few'):
        fit_to_file(demo_config, 'unused.pth', num_images=2)


# --- tokens


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
    with pytest.raises(ValueError, match='does not fit the tokenizer'):
        make_mae(target=dict(TOKENS, weights=str(tmp_path / 'bad.pth')))


def test_fit_pca_tool(demo_config, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, 'tools')
    import fit_pca as tool

    demo_config.dump(tmp_path / 'config.py')
    monkeypatch.setattr(sys, 'argv', [
        'fit_pca.py', str(tmp_path / 'config.py'), '--out', str(tmp_path / 'out.pth'), '--images', '12'])
    tool.main()
    assert '32 of 48 components hold' in capsys.readouterr().out
    assert set(torch.load(tmp_path / 'out.pth')) == {'mean', 'components', 'variances'}


def test_mae_is_an_nn_module_without_surprises(make_mae):
    """Pixels need no weights: the default model has exactly the published ones."""
    assert isinstance(make_mae().target_generator, nn.Module) and not make_mae().target_generator.state_dict()
