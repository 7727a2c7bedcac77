"""Components, attention and similarity of tokens whose structure is known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_mm.evaluation import encoder as encoder_module
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.vit import ViT
from mae_mm.visualization import tokens as module
from mae_mm.visualization.tokens import attention_maps, compress, pca_colours, similarities, unit_tokens

KINDS = torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 1, 0, 0, 0]])  # of 2 x 6 tokens


@pytest.fixture
def planted() -> Tensor:
    """(2, 6, 24) tokens of three kinds, with little noise, far from zero."""
    kinds = 10 * torch.randn(3, 24) + 100
    return kinds[KINDS] + 0.01 * torch.randn(2, 6, 24)


@pytest.fixture
def imgs() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, 'native_dtype', lambda device: (torch.float32, 'for the tests'))


def test_colours_are_those_of_the_kind_in_every_image(planted: Tensor) -> None:
    colours, shares = pca_colours(planted)
    assert colours.dtype == np.uint8 and colours.shape == (2, 6, 3)
    kinds = [colours[kind == KINDS][:, :2].astype(int) for kind in range(3)]  # three points are a plane
    assert all(np.ptp(kind, axis=0).max() <= 3 for kind in kinds)
    assert all(np.abs(a[0] - b[0]).max() > 100 for a, b in zip(kinds, [*kinds[1:], kinds[0]], strict=True))
    assert sum(shares[:2]) > 0.999 and shares == sorted(shares, reverse=True)


def test_two_halves_get_the_ends_of_the_first_component_and_nothing_else() -> None:
    tokens = torch.zeros(2, 6, 24)
    tokens[:, 3:] = torch.randn(24)
    colours, _ = pca_colours(tokens + 1e-6 * torch.randn_like(tokens))
    assert set(colours[:, :3, 0].ravel()) | set(colours[:, 3:, 0].ravel()) == {0, 255}
    assert len(set(colours[:, :3, 0].ravel())) == 1 and np.ptp(colours[..., 1:]) <= 1  # no colours from rounding errors


def test_one_extreme_token_does_not_take_all_colours() -> None:
    tokens = torch.randn(4, 100, 3) * torch.tensor([3.0, 2.0, 1.0])
    tokens[0, 0] *= 50
    colours = pca_colours(tokens)[0]
    assert colours.reshape(-1, 3).std(0).min() > 40


def test_attention_is_the_softmax_of_the_class_tokens_scores(make_vit: Callable[..., ViT], imgs: Tensor) -> None:
    vit = make_vit().eval()
    encoder = Encoder(vit, ImagePreprocessor(), (32, 48))
    inputs = encoder.preprocessor(dict(inputs=imgs))['inputs']
    for block, x in ((0, vit._prepend_cls_token(vit.embed(inputs))), (1, vit.block_tokens(inputs, [0])[0])):
        q, k, _ = vit.blocks[block].attn.qkv(vit.blocks[block].norm1(x)).view(2, 25, 3, 2, 16).permute(2, 0, 3, 1, 4)
        expected = torch.softmax(q @ k.transpose(-2, -1) / 4, dim=-1)[:, :, 0]  # (N, heads, T)
        maps = attention_maps(encoder, imgs, block)
        torch.testing.assert_close(maps, expected[..., 1:])
        torch.testing.assert_close(maps.sum(-1) + expected[..., 0], torch.ones(2, 2))
    assert not vit.blocks[1].attn._forward_pre_hooks


@pytest.mark.parametrize('rel_pos', [False, True])
def test_with_windows_it_is_the_mean_of_all_patches(
    make_vit: Callable[..., ViT], imgs: Tensor, monkeypatch: pytest.MonkeyPatch, rel_pos: bool,
) -> None:
    arch = dict(embed_dim=32, depth=8, num_heads=2)
    vit = make_vit(arch=arch, window_size=2, out_type='featmap', rel_pos=rel_pos).eval()
    encoder = Encoder(vit, ImagePreprocessor(), (32, 48))
    with pytest.raises(ValueError, match=r'block 2 attends in windows of 2x2 tokens.* one of 1, 3, 5, 7'):
        attention_maps(encoder, imgs, 2)
    with torch.no_grad():
        x = vit.blocks[5].norm1(vit.block_tokens(encoder.preprocessor(dict(inputs=imgs))['inputs'], [4])[0])
        expected = vit.blocks[5].attn.weights(x, (4, 6)).mean(2)
    monkeypatch.setattr(module, 'QUERIES', 7)  # of 24: the last part is shorter
    maps = attention_maps(encoder, imgs, 5)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2))
    assert maps.std(-1).min() > 0


def test_similarity_finds_the_kind_and_is_largest_at_the_patch(planted: Tensor) -> None:
    for image, patch in ((0, 0), (0, 3), (1, 0)):
        similarity = similarities(planted, image, patch)
        assert similarity.argmax() == image * 6 + patch and similarity[image, patch] == pytest.approx(1)
        alike = KINDS[image, patch] == KINDS
        assert similarity[alike].min() > 0.99 and similarity[~alike].max() < 0.5  # the common mean, 100, is left out


def test_compressed_tokens_keep_similarities() -> None:
    tokens = torch.randn(2, 30, 64)
    kept, share = compress(tokens, 10_000)
    assert kept.dtype == np.int8 and kept.shape == (2, 30, 64) and share == 1
    unit = kept.reshape(60, 64) / np.linalg.norm(kept.reshape(60, 64), axis=1, keepdims=True)
    expected = unit_tokens(tokens).reshape(60, 64)
    np.testing.assert_allclose(unit @ unit.T, (expected @ expected.T).numpy(), atol=0.02)
    assert ((unit @ unit.T).argmax(1) == np.arange(60)).all()


def test_compression_takes_the_directions_that_matter_within_the_limit() -> None:
    tokens = torch.randn(2, 30, 16) @ torch.linalg.qr(torch.randn(64, 16))[0].T + 1e-3 * torch.randn(2, 30, 64)
    kept, share = compress(tokens, 60 * 20)
    assert kept.shape == (2, 30, 20) and kept.nbytes <= 60 * 20 and 0.999 < share < 1
    unit = kept.reshape(60, 20) / np.linalg.norm(kept.reshape(60, 20), axis=1, keepdims=True)
    expected = unit_tokens(tokens).reshape(60, 64)
    np.testing.assert_allclose(unit @ unit.T, (expected @ expected.T).numpy(), atol=0.03)
    assert compress(tokens, 60 * 16 - 1) is None
    assert compress(tokens[..., :8], 60 * 8)[0].shape == (2, 30, 8)  # all that there are
