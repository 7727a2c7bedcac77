"""Partial prediction against the full decoder, and the cross-attention decoder against its promises."""

import pytest
import torch

from mae_mm.engine.runner import load_config
from mae_mm.models.decoders import CrossDecoder, PartialDecoder
from mae_mm.models.masking import random_masking
from mae_mm.registry import MODELS

KINDS = [PartialDecoder, CrossDecoder]


@pytest.fixture
def make(make_mae):
    """A tiny MAE with a decoder of 2 blocks of this kind; 12 of 16 patches are masked."""
    return lambda kind, predict_ratio=1 / 3, **options: make_mae(
        neck=dict(type=kind, depth=2, predict_ratio=predict_ratio), **options)


def test_all_masked_patches_are_those_of_the_full_decoder(make, make_mae, imgs):
    """Attention does not know the order of its tokens: prediction, loss and gradients are the full decoder's."""
    partial, full, noise = make(PartialDecoder, 1.0), make_mae(neck=dict(depth=2)), torch.rand(2, 16)
    full.load_state_dict(partial.state_dict())
    ours, want = partial.reconstruct(imgs, noise), full.reconstruct(imgs, noise)
    assert torch.equal(ours.mask, want.mask)
    torch.testing.assert_close(ours.pred[ours.mask], want.pred[want.mask], rtol=1e-4, atol=1e-5)
    for mae in (partial, full):
        mae.loss(imgs, noise=noise)['loss'].backward()
    grads = {name: param.grad for name, param in full.named_parameters() if param.requires_grad}
    for name, param in partial.named_parameters():
        if param.requires_grad:
            torch.testing.assert_close(param.grad, grads[name], rtol=1e-3, atol=1e-6)
    full.eval(), partial.eval()
    assert torch.equal(partial.reconstruct(imgs, noise).pred, full.reconstruct(imgs, noise).pred)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('ratio', 'predicted'), [(1 / 3, 4), (0.25, 3), (1.0, 12), (0.01, 1)])
def test_only_what_is_predicted_counts(make, imgs, kind, ratio, predicted):
    mae, noise = make(kind, ratio), torch.rand(2, 16)
    out, hidden = mae.reconstruct(imgs, noise), random_masking(noise, 0.75).mask
    assert out.mask.sum(1).tolist() == [predicted] * 2 and not (out.mask & ~hidden).any()
    assert (out.pred[~out.mask] == 0).all() and (out.pred[out.mask] != 0).any(-1).all()
    error = (out.pred - mae.target(imgs)).square().mean(-1)
    torch.testing.assert_close(mae.loss(imgs, noise=noise)['loss'], error[out.mask].mean())
    mae.eval()
    assert torch.equal(mae.reconstruct(imgs, noise).mask, hidden)


@pytest.mark.parametrize('kind', KINDS)
def test_every_masked_patch_is_predicted_equally_often(make, imgs, kind):
    mae, noise = make(kind), torch.rand(4000, 16)
    patch_mask = random_masking(noise, 0.75)
    share = mae.neck.predicted(patch_mask).float().mean(0)
    assert (share - 4 / 16).abs().max() < 4 * (0.25 * 0.75 / 4000)**0.5  # four standard errors


def test_cross_decoder_predicts_each_patch_by_itself(make, imgs):
    """Fewer predictions, and those in evaluation, are the same."""
    some, every, noise = make(CrossDecoder), make(CrossDecoder, 1.0), torch.rand(2, 16)
    every.load_state_dict(some.state_dict())
    few, all_masked = some.reconstruct(imgs, noise), every.reconstruct(imgs, noise)
    torch.testing.assert_close(few.pred[few.mask], all_masked.pred[few.mask], rtol=1e-4, atol=1e-5)
    some.eval()
    evaluated = some.reconstruct(imgs, noise)
    torch.testing.assert_close(evaluated.pred[all_masked.mask], all_masked.pred[all_masked.mask], rtol=1e-4, atol=1e-5)
    assert (evaluated.pred != 0).any(-1).all()  # visible patches are predicted, too


def test_cross_attention_by_hand():
    """One head, identity projections: a query that equals one key far more than the others gets its value."""
    attn = CrossDecoder(
        embed_dim=4, depth=1, num_heads=1, encoder_dim=4, num_values=3, grid_size=(2, 2)).decoder_blocks[0].attn
    with torch.no_grad():
        attn.q.weight.copy_(100 * torch.eye(4)), attn.proj.weight.copy_(torch.eye(4))
        attn.kv.weight.copy_(torch.cat([torch.eye(4), 2 * torch.eye(4)]))
        for layer in (attn.q, attn.kv, attn.proj):
            layer.bias.zero_()
    memory = torch.eye(4)[None]
    torch.testing.assert_close(attn(memory[:, [2, 0]], memory), 2 * memory[:, [2, 0]])
    uniform = attn(torch.zeros(1, 1, 4), memory)
    torch.testing.assert_close(uniform, torch.full((1, 1, 4), 0.5))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(16, 64), (64, 16), (40, 24)])
def test_images_of_another_size(make, kind, size):
    mae, imgs = make(kind), torch.randn(2, 3, *size)
    assert mae.loss(imgs)['loss'].isfinite()
    mae.eval()
    assert mae.predict(imgs)[0]['reconstruction'].shape == (3, *size)


@pytest.mark.parametrize('options', [dict(mask_sampling='block'), dict(mask_token=True)])
def test_what_does_not_fit_is_refused(make, options):
    with pytest.raises(ValueError, match='predicts a part of the masked patches'):
        make(PartialDecoder, **options)
    with pytest.raises(ValueError, match=r'predict_ratio=1\.5'):
        make(PartialDecoder, 1.5)


@pytest.mark.parametrize(('path', 'kind'), [
    ('configs/pretrain/vit_b16_800e_partial.py', PartialDecoder),
    ('configs/demo/mae_pretrain_partial.py', PartialDecoder),
    ('configs/pretrain/vit_b16_800e_cross.py', CrossDecoder), ('configs/demo/mae_pretrain_cross.py', CrossDecoder)])
def test_recipes_build(path, kind):
    cfg = load_config(path)
    cfg.model.backbone.arch = dict(embed_dim=24, depth=1, num_heads=1)  # the encoder is the parent's
    assert isinstance(MODELS.build(cfg.model).neck, kind)
