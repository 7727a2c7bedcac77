"""Relative positions against slow loops over pairs of tokens."""

import pytest
import torch
from torch import Tensor

from mae_mm.attention import Attention
from mae_mm.axis_attention import attend_by_axes
from mae_mm.rel_pos import offset_bias, offsets

GRIDS = [(3, 3), (2, 5), (4, 1)]


def attend(attn: Attention, x: Tensor, extra: Tensor) -> Tensor:
    """Plain attention with `extra` (heads, T, T) added to the scores."""
    n, num_tokens, width = x.shape
    q, k, v = attn.qkv(x).view(n, num_tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * attn.head_dim**-0.5 + extra
    return attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, num_tokens, width))


@pytest.mark.parametrize('in_pieces', [True, False])
@pytest.mark.parametrize('grid', GRIDS)
def test_decomposed_equals_the_slow_form(
    grid: tuple[int, int], in_pieces: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('mae_mm.attention.pieces_are_faster', lambda q: in_pieces)
    attn = Attention(16, 2, qkv_bias=True)
    attn.add_axis_tables(grid)
    rows, cols = grid
    torch.nn.init.normal_(attn.rel_pos_h)
    torch.nn.init.normal_(attn.rel_pos_w)
    x = torch.randn(1, rows * cols, 16)
    q = attn.qkv(x).view(rows * cols, 3, 2, 8)[:, 0]  # (L, heads, d)
    extra = torch.zeros(2, rows * cols, rows * cols)
    for i in range(rows * cols):
        for j in range(rows * cols):
            by_row = attn.rel_pos_h[rows - 1 + i // cols - j // cols]
            by_col = attn.rel_pos_w[cols - 1 + i % cols - j % cols]
            extra[:, i, j] = q[i] @ (by_row + by_col)
    torch.testing.assert_close(attn(x, grid=grid), attend(attn, x, extra), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('piece', [7, 40, 1000])
@pytest.mark.parametrize('grid', GRIDS)
def test_attention_in_pieces_has_the_right_gradients(
    grid: tuple[int, int], piece: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part of a head, some heads, all heads at a time."""
    monkeypatch.setattr('mae_mm.axis_attention.PIECE', piece)
    length, options = grid[0] * grid[1], dict(dtype=torch.float64, requires_grad=True)
    q, k, v = (torch.randn(2, 2, length, 4, **options) for _ in range(3))
    row_scores, col_scores = (torch.randn(2, 2, length, side, **options) for side in grid)
    bias = (row_scores[..., None] + col_scores[..., None, :]).flatten(-2)
    slow = ((q @ k.transpose(-2, -1)) * 0.5 + bias).softmax(-1) @ v
    torch.testing.assert_close(attend_by_axes(q, k, v, row_scores, col_scores, 0.5), slow)
    assert torch.autograd.gradcheck(attend_by_axes, (q, k, v, row_scores, col_scores, 0.5), fast_mode=True)


@pytest.mark.parametrize('grid', GRIDS)
def test_offset_bias_equals_the_slow_form(grid: tuple[int, int]) -> None:
    attn = Attention(16, 2, qkv_bias=True)
    attn.add_offset_tables(grid)
    rows, cols = grid
    torch.nn.init.normal_(attn.rel_pos_bias)
    torch.nn.init.normal_(attn.rel_pos_class_bias)
    extra = torch.zeros(2, 1 + rows * cols, 1 + rows * cols)
    extra[:, 0, 1:] = attn.rel_pos_class_bias[:, :1]
    extra[:, 1:, 0] = attn.rel_pos_class_bias[:, 1:2]
    extra[:, 0, 0] = attn.rel_pos_class_bias[:, 2]
    for i in range(rows * cols):
        for j in range(rows * cols):
            down, right = i // cols - j // cols, i % cols - j % cols
            extra[:, 1 + i, 1 + j] = attn.rel_pos_bias[:, rows - 1 + down, cols - 1 + right]
    x = torch.randn(2, 1 + rows * cols, 16)
    torch.testing.assert_close(attn(x, grid=grid), attend(attn, x, extra), rtol=1e-5, atol=1e-6)


def test_tables_are_resampled_to_other_grids() -> None:
    """A table that is linear in the offset stays linear; the grid's own table is taken as it is."""
    table = torch.linspace(-3, 3, 7)[:, None]
    assert torch.equal(offsets(table, 4)[:, 0, 0], table[3:, 0])
    resampled = offsets(table, 8)[:, :, 0]  # offsets -7 … 7
    steps = resampled[0].diff()
    torch.testing.assert_close(steps[1:-1], steps[1:-1].mean().expand(5), rtol=1e-4, atol=1e-4)
    bias = torch.randn(2, 7, 7)
    assert offset_bias(bias, torch.zeros(2, 3), (6, 3)).shape == (2, 19, 19)


@pytest.mark.parametrize('options', [dict(window_size=3), dict()])
def test_zero_tables_change_nothing(make_vit, options: dict) -> None:
    """A transfer starts from the very features of pre-training."""
    imgs = torch.randn(2, 3, 40, 56)
    plain = make_vit(arch=dict(embed_dim=32, depth=4, num_heads=2), out_type='featmap', **options)
    relative = make_vit(
        arch=dict(embed_dim=32, depth=4, num_heads=2), out_type='featmap', rel_pos=True, checkpointing=True, **options)
    missing = relative.load_state_dict({
        **{name: torch.zeros_like(value) for name, value in relative.state_dict().items() if '.rel_pos' in name},
        **plain.state_dict()}).missing_keys
    assert not missing
    torch.testing.assert_close(relative(imgs)[0], plain(imgs)[0], rtol=1e-5, atol=1e-5)


def test_checkpointing_is_bit_equal(make_vit) -> None:
    imgs = torch.randn(2, 3, 40, 56)
    options = dict(arch=dict(embed_dim=32, depth=4, num_heads=2), out_type='featmap', window_size=3, rel_pos=True,
                   drop_path_rate=0.5)
    plain, sparing = make_vit(**options), make_vit(**options, checkpointing=True)
    sparing.load_state_dict(plain.state_dict())
    for vit in (plain, sparing):
        torch.manual_seed(1)
        vit.train()(imgs)[0].square().sum().backward()
    for ours, theirs in zip(plain.parameters(), sparing.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
