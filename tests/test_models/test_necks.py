"""Necks between a plain ViT and hosts."""

import pytest
import torch
import torch.nn.functional as F

from mae_mm.models.necks import AttentivePool, BatchNormMaps, FourTapPyramid, SimplePyramid


def test_four_taps_become_four_scales() -> None:
    maps = [torch.randn(1, 16, 6, 4) for _ in range(4)]
    scales = FourTapPyramid(16)(maps)
    assert [tuple(x.shape[1:]) for x in scales] == [(16, 24, 16), (16, 12, 8), (16, 6, 4), (16, 3, 2)]
    assert torch.equal(scales[2], maps[2])
    assert scales[3][0, 0, 0, 0] == maps[3][0, 0, :2, :2].max()


def test_first_tap_is_normalised_over_channels_and_pixels_together() -> None:
    """GroupNorm with one group and GELU between the transposed convolutions (arXiv:2111.11429)."""
    neck, x = FourTapPyramid(16), torch.randn(2, 16, 6, 4)
    first, _, _, last = neck.scales[0]
    doubled = first(x)
    mean, var = doubled.mean((1, 2, 3), keepdim=True), doubled.var((1, 2, 3), keepdim=True, correction=0)
    want = last(F.gelu((doubled - mean) / (var + 1e-5).sqrt()))
    torch.testing.assert_close(neck([x] * 4)[0], want, atol=1e-5, rtol=1e-5)


def test_simple_pyramid_has_five_scales_of_the_last_map() -> None:
    neck = SimplePyramid(16, out_channels=8)
    last = torch.randn(1, 16, 6, 4)
    scales = neck([last])
    assert [tuple(x.shape[1:]) for x in scales] == [(8, 24, 16), (8, 12, 8), (8, 6, 4), (8, 3, 2), (8, 2, 1)]
    assert all(torch.equal(a, b) for a, b in zip(scales, neck([torch.zeros_like(last), last]), strict=True))
    torch.testing.assert_close(scales[1].mean(1), torch.zeros(1, 12, 8), atol=1e-5, rtol=0)  # LayerNorm comes last


def test_simple_pyramid_of_some_scales() -> None:
    scales = SimplePyramid(16, out_channels=8, scale_factors=(2, 1, 0.5))([torch.randn(1, 16, 6, 4)])
    assert [tuple(x.shape[1:]) for x in scales] == [(8, 12, 8), (8, 6, 4), (8, 3, 2), (8, 2, 1)]
    with pytest.raises(KeyError, match='3'):
        SimplePyramid(16, scale_factors=(2, 3))


def test_probe_sees_unit_variance_and_learns_nothing_itself() -> None:
    neck = BatchNormMaps(16, num_maps=2)
    assert not list(neck.parameters())
    maps = [3 + 5 * torch.randn(4, 16, 6, 4), torch.randn(4, 16, 6, 4) - 2]
    for normed in neck(maps):
        torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
        torch.testing.assert_close(normed.var((0, 2, 3), correction=0), torch.ones(16), atol=1e-5, rtol=0)
    neck.eval()
    assert not torch.allclose(neck(maps)[0].mean(), torch.zeros(()), atol=0.1)  # by the running statistics


def test_queries_pool_as_their_formula_says() -> None:
    """In loops, values first: query j weighs the values of its own slice by softmax(q_j x / sqrt(D))."""
    neck, x = AttentivePool(8, num_queries=4), torch.randn(3, 5, 8)
    with torch.no_grad():
        neck.queries.mul_(100)
    values, want = x @ neck.values.weight.T, torch.zeros(3, 8)
    for n in range(3):
        for j in range(4):
            scores = torch.stack([neck.queries[j] @ x[n, i] / 8**0.5 for i in range(5)])
            want[n, 2 * j:2 * j + 2] = sum(
                weight * values[n, i, 2 * j:2 * j + 2] for i, weight in enumerate(scores.softmax(0)))
    neck.eval()  # running mean 0 and variance 1
    torch.testing.assert_close(neck.pool(x), want, atol=1e-5, rtol=1e-4)


def test_attentive_pool_reads_the_patch_tokens_alone() -> None:
    neck, tokens = AttentivePool(8, num_queries=1), torch.randn(6, 10, 8)
    assert [name for name, _ in neck.named_parameters()] == ['queries']
    out, = neck((tokens, ))
    assert torch.equal(out, neck((torch.cat([torch.zeros(6, 1, 8), tokens[:, 1:]], 1), ))[0])
    torch.testing.assert_close(out.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_attentive_pool_has_the_published_size() -> None:
    """1,383,400 trained parameters with a classifier of 1000 classes, says the authors' log of ViT-B."""
    assert sum(p.numel() for p in AttentivePool(768).parameters()) + 769 * 1000 == 1_383_400
    with pytest.raises(ValueError, match='num_queries=32 must divide embed_dim=100'):
        AttentivePool(100)
