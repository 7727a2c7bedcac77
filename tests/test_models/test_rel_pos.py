"""Relative positions against slow loops over pairs of tokens."""

import pytest
import torch
from torch import Tensor

from mae_mm.models.attention import Attention
from mae_mm.models.axis_attention import attend_by_axes
from mae_mm.models.rel_pos import axis_scores, offset_bias, offsets

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
    monkeypatch.setattr('mae_mm.models.attention.pieces_are_faster', lambda q: in_pieces)
    attn = with_axis_tables(grid)
    x = torch.randn(1, grid[0] * grid[1], 16)
    extra = slow_axis_scores(attn, x, grid, grid)
    torch.testing.assert_close(attn(x, grid=grid), attend(attn, x, extra), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('in_pieces', [False, True])
def test_filling_of_windows_is_never_seen(in_pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 3 in 5 x 7 tokens: each equals attention among its real tokens, gradients included."""
    monkeypatch.setattr('mae_mm.models.attention.pieces_are_faster', lambda q: in_pieces)
    attn, x = with_axis_tables((3, 3)).double(), torch.randn(2, 35, 16, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(attn.qkv.bias)
    grid, slow = x.view(2, 5, 7, 16), torch.empty(2, 5, 7, 16, dtype=torch.float64)
    for image in (0, 1):
        for top in (0, 3):
            for left in (0, 3, 6):
                window = grid[image:image + 1, top:top + 3, left:left + 3]
                tokens = window.reshape(1, -1, 16)
                extra = slow_axis_scores(attn, tokens, tuple(window.shape[1:3]), (3, 3))
                slow[image, top:top + 3, left:left + 3] = attend(attn, tokens, extra).view(window.shape[1:])
    fast = attn(x, grid=(5, 7), window_size=3)
    torch.testing.assert_close(fast, slow.view(2, 35, 16))
    inputs = [x, attn.rel_pos_h, attn.rel_pos_w, attn.qkv.weight]
    for ours, theirs in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, theirs)


def with_axis_tables(grid: tuple[int, int]) -> Attention:
    attn = Attention(16, 2, qkv_bias=True)
    attn.add_axis_tables(grid)
    torch.nn.init.normal_(attn.rel_pos_h)
    torch.nn.init.normal_(attn.rel_pos_w)
    return attn


def slow_axis_scores(attn: Attention, x: Tensor, grid: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """What relative positions add to the scores of (1, L, 16) tokens, pair by pair: (heads, L, L)."""
    length, cols = grid[0] * grid[1], grid[1]
    q = attn.qkv(x).view(length, 3, 2, 8)[:, 0]  # (L, heads, d)
    pairs = [[q[i] @ (attn.rel_pos_h[sides[0] - 1 + i // cols - j // cols]
                      + attn.rel_pos_w[sides[1] - 1 + i % cols - j % cols]) for j in range(length)]
             for i in range(length)]
    return torch.stack([torch.stack(row) for row in pairs]).permute(2, 0, 1)


@pytest.mark.parametrize('piece', [7, 40, 1000])
@pytest.mark.parametrize('grid', GRIDS)
def test_attention_in_pieces_has_the_right_gradients(
    grid: tuple[int, int], piece: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part of a head, some heads, all heads at a time."""
    monkeypatch.setattr('mae_mm.models.axis_attention.PIECE', piece)
    length, options = grid[0] * grid[1], dict(dtype=torch.float64, requires_grad=True)
    q, k, v = (torch.randn(2, 2, length, 4, **options) for _ in range(3))
    tables = [torch.randn(2 * side - 1, 4, **options) for side in grid]
    row_scores, col_scores = axis_scores(q, grid, tables)
    bias = (row_scores[..., None] + col_scores[..., None, :]).flatten(-2)
    slow = ((q @ k.transpose(-2, -1)) * 0.5 + bias).softmax(-1) @ v

    def in_pieces(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        return attend_by_axes(q, k, v, grid, tables, 0.5)

    torch.testing.assert_close(in_pieces(q, k, v, *tables), slow)
    assert torch.autograd.gradcheck(in_pieces, (q, k, v, *tables), fast_mode=True)


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
    plain = make_vit(arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', **options)
    relative = make_vit(
        arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', rel_pos=True, checkpointing=True, **options)
    missing = relative.load_state_dict({
        **{name: torch.zeros_like(value) for name, value in relative.state_dict().items() if '.rel_pos' in name},
        **plain.state_dict()}).missing_keys
    assert not missing
    torch.testing.assert_close(relative(imgs)[0], plain(imgs)[0], rtol=1e-5, atol=1e-5)


def test_checkpointing_is_bit_equal(make_vit) -> None:
    imgs = torch.randn(2, 3, 40, 56)
    options = dict(arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', window_size=3, rel_pos=True,
                   drop_path_rate=0.5)
    plain, sparing = make_vit(**options), make_vit(**options, checkpointing=True)
    sparing.load_state_dict(plain.state_dict())
    for vit in (plain, sparing):
        torch.manual_seed(1)
        vit.train()(imgs)[0].square().sum().backward()
    for ours, theirs in zip(plain.parameters(), sparing.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
