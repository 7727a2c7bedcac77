import pytest
import timm.layers
import torch
from timm.models import vision_transformer
from torch import nn

from mae_mm.models import attention
from mae_mm.models.attention import Attention, Block, from_windows, plain_is_faster, to_windows


def scrambled(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return module


def results(module: nn.Module, x: torch.Tensor, **kwargs) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of the parameters (of a fixed weighted sum of the outputs)."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = module(x, **kwargs)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()
    return [out.detach(), x.grad, *(param.grad.clone() for param in module.parameters())]


def assert_near(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_tokens_that_all_look_alike_are_averaged():
    module = Attention(4, 2)
    with torch.no_grad():
        for param in module.parameters():
            param.zero_()
        module.qkv.weight[8:] = torch.eye(4)  # queries and keys are 0: every token weighs the same
        module.proj.weight.copy_(torch.eye(4))
        module.proj.bias.fill_(10)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 8.0]]])
    assert module(x).tolist() == [[[12, 13, 14, 16]] * 2]


@pytest.mark.parametrize('plain', [False, True])
@pytest.mark.parametrize('fused_timm', [False, True])
def test_attention_equals_timm(monkeypatch, plain, fused_timm):
    monkeypatch.setattr(attention, 'plain_is_faster', lambda q: plain)
    ours, theirs = scrambled(Attention(32, 4)), timm.layers.Attention(32, 4, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    theirs.fused_attn = fused_timm
    x = torch.randn(3, 11, 32)
    assert_near(results(ours, x), results(theirs, x), 1e-5)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_plain_path_equals_fused_path(monkeypatch, dtype, tolerance):
    module, x = scrambled(Attention(64, 4)), torch.randn(2, 50, 64)
    exact = results(module, x)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for plain in (True, False):
            monkeypatch.setattr(attention, 'plain_is_faster', lambda q: plain)  # noqa: B023 - called within the turn
            out = results(module, x)
            assert out[0].dtype == dtype
            assert_near(out, exact, tolerance)


def test_a_mask_takes_the_fused_path_whatever_is_faster(monkeypatch):
    monkeypatch.setattr(attention, 'plain_is_faster', lambda q: True)
    ours, theirs = scrambled(Attention(32, 4)), timm.layers.Attention(32, 4, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    x, hide = torch.randn(2, 6, 32), torch.rand(2, 1, 6, 6) < 0.3
    hide |= torch.eye(6, dtype=torch.bool)
    bias = torch.randn(2, 4, 6, 6)
    for kwargs in (dict(attn_mask=hide), dict(attn_mask=bias), dict(is_causal=True)):
        assert_near(results(ours, x, **kwargs), results(theirs, x, **kwargs), 1e-5)


def test_a_hidden_key_changes_nothing():
    module, x = scrambled(Attention(32, 4)), torch.randn(1, 6, 32)
    seen = torch.tensor([True, True, False, True, True, True]).view(1, 1, 1, 6)
    changed = x.clone()
    changed[:, 2] = 7
    others = [0, 1, 3, 4, 5]
    a, b = (module(tokens, attn_mask=seen)[:, others] for tokens in (x, changed))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(module(x)[:, others], module(changed)[:, others])


@pytest.mark.parametrize('plain', [False, True])
def test_order_of_tokens_does_not_matter(monkeypatch, plain):
    monkeypatch.setattr(attention, 'plain_is_faster', lambda q: plain)
    module, x, order = scrambled(Block(32, 4)), torch.randn(2, 9, 32), torch.randperm(9)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-4, atol=1e-5)


def test_plain_is_chosen_only_where_it_is_faster():
    q = torch.zeros(1, 2, 50, 8, dtype=torch.bfloat16)
    assert plain_is_faster(q)
    assert not plain_is_faster(q.float())
    assert not plain_is_faster(torch.zeros(1, 1, 257, 8, dtype=torch.bfloat16))
    assert not plain_is_faster(q.to('meta'))
    with torch.no_grad():
        assert not plain_is_faster(q)


@pytest.mark.parametrize('mlp_ratio', [4.0, 2.0])
def test_block_equals_timm(mlp_ratio):
    ours = scrambled(Block(32, 4, mlp_ratio))
    theirs = vision_transformer.Block(
        32, 4, mlp_ratio, qkv_bias=True, norm_layer=lambda dim, **kwargs: nn.LayerNorm(dim, eps=1e-6, **kwargs))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = 1e-3 * torch.randn(3, 11, 32)  # so small that the eps of the norms is seen
    assert_near(results(ours, x), results(theirs, x), 1e-5)


def test_drop_path_skips_whole_branches_of_whole_images():
    block, x = scrambled(Block(32, 4, drop_path=0.5)), torch.randn(200, 5, 32)
    block.train()
    unchanged = (block(x) == x).all(-1).all(-1)
    assert abs(unchanged.float().mean() - 0.25) < 0.1  # both branches dropped: 0.5 * 0.5
    block.eval()
    assert not (block(x) == x).all(-1).all(-1).any()


def test_drop_path_skips_all_windows_of_an_image():
    """Of 100 images with 4 windows each about a quarter keep neither branch; none keeps only some windows."""
    block, x = scrambled(Block(32, 4, drop_path=0.5)), torch.randn(100, 16, 32)
    skipped = (block.train()(x, grid=(4, 4), window_size=2) == x).all(2)
    assert (skipped.all(1) == skipped.any(1)).all() and 10 < skipped.all(1).sum() < 45


# --- relative positions, against slow loops over pairs of tokens


GRIDS = [(3, 3), (2, 5), (4, 1)]


def with_axis_tables(grid: tuple[int, int]) -> Attention:
    attn = Attention(16, 2)
    attn.add_axis_tables(grid)
    for param in (attn.rel_pos_h, attn.rel_pos_w, attn.qkv.bias):
        nn.init.normal_(param)
    return attn


def slow_weights(attn: Attention, x: torch.Tensor, extra: torch.Tensor | float = 0) -> torch.Tensor:
    """Softmax of plain scores with `extra` (heads, T, T) added: (N, heads, T, T)."""
    q, k, _ = attn.qkv(x).view(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) * attn.head_dim**-0.5 + extra).softmax(-1)


def attend(attn: Attention, x: torch.Tensor, extra: torch.Tensor | float = 0) -> torch.Tensor:
    """Plain attention with `extra` (heads, T, T) added to the scores."""
    v = attn.qkv(x).view(*x.shape[:2], 3, attn.num_heads, -1)[:, :, 2].transpose(1, 2)
    return attn.proj((slow_weights(attn, x, extra) @ v).transpose(1, 2).reshape(x.shape))


def assert_weights(attn: Attention, x: torch.Tensor, grid: tuple[int, int] | None, expected: torch.Tensor) -> None:
    """`Attention.weights` of all tokens, and of two of them."""
    torch.testing.assert_close(attn.weights(x, grid), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attn.weights(x, grid, slice(1, 3)), expected[:, :, 1:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attn.weights(x, grid).sum(-1), torch.ones(expected.shape[:3]))


def test_weights_are_those_that_mix_the_values() -> None:
    attn, x = scrambled(Attention(16, 2)), torch.randn(2, 5, 16)
    assert_weights(attn, x, None, slow_weights(attn, x))
    torch.testing.assert_close(attn(x), attend(attn, x), rtol=1e-5, atol=1e-6)


def slow_axis_scores(attn: Attention, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """What relative positions add to the scores of (1, L, 16) tokens, pair by pair: (heads, L, L)."""
    (rows, cols), length = grid, x.shape[1]
    q = attn.qkv(x).view(length, 3, 2, 8)[:, 0]  # (L, heads, d)
    pairs = [[q[i] @ (attn.rel_pos_h[rows - 1 + i // cols - j // cols]
                      + attn.rel_pos_w[cols - 1 + i % cols - j % cols]) for j in range(length)]
             for i in range(length)]
    return torch.stack([torch.stack(row) for row in pairs]).permute(2, 0, 1)


@pytest.mark.parametrize('grid', GRIDS)
def test_decomposed_equals_the_slow_form(grid: tuple[int, int]) -> None:
    attn = with_axis_tables(grid)
    x = torch.randn(1, grid[0] * grid[1], 16)
    extra = slow_axis_scores(attn, x, grid)
    torch.testing.assert_close(attn(x, grid=grid), attend(attn, x, extra), rtol=1e-5, atol=1e-6)
    assert_weights(attn, x, grid, slow_weights(attn, x, extra))


@pytest.mark.parametrize('grid', GRIDS)
def test_offset_bias_equals_the_slow_form(grid: tuple[int, int]) -> None:
    attn = Attention(16, 2)
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
    assert_weights(attn, x, grid, slow_weights(attn, x, extra))


# --- windows


@pytest.mark.parametrize('grid', [(4, 6), (5, 7), (3, 2), (1, 9)])
def test_windows_and_back(grid: tuple[int, int]) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 5)
    assert torch.equal(from_windows(to_windows(tokens, grid, 3, torch.zeros(5)), grid, 3), tokens)


def test_windows_by_hand() -> None:
    """A 3 x 3 grid in windows of 2: the last column and row are half padding."""
    windows = to_windows(torch.arange(1., 10).view(1, 9, 1), (3, 3), 2, torch.tensor([-1.0]))
    assert windows[..., 0].tolist() == [[1, 2, 4, 5], [3, -1, 6, -1], [7, 8, -1, -1], [9, -1, -1, -1]]


@pytest.mark.parametrize('rel_pos', [False, True])
@pytest.mark.parametrize('grid', [(5, 7), (3, 6), (4, 2)])
def test_windows_equal_a_loop_over_padded_windows(grid: tuple[int, int], rel_pos: bool) -> None:
    """As in ViTDet's release: the inputs are padded with zeros, and padding is attended to. Values and gradients."""
    (rows, cols), attn = grid, with_axis_tables((3, 3)).double()
    if not rel_pos:
        attn.rel_pos_h = attn.rel_pos_w = None
    x = torch.randn(2, rows * cols, 16, dtype=torch.float64, requires_grad=True)
    slow = torch.empty(2, rows, cols, 16, dtype=torch.float64)
    for image in range(2):
        for top in range(0, rows, 3):
            for left in range(0, cols, 3):
                real = x.view(2, rows, cols, 16)[image, top:top + 3, left:left + 3]
                window = torch.zeros(3, 3, 16, dtype=torch.float64)
                window[:len(real), :real.shape[1]] = real
                tokens = window.view(1, 9, 16)
                out = attend(attn, tokens, slow_axis_scores(attn, tokens, (3, 3)) if rel_pos else 0).view(3, 3, 16)
                slow[image, top:top + 3, left:left + 3] = out[:len(real), :real.shape[1]]
    fast = attn(x, grid=grid, window_size=3)
    torch.testing.assert_close(fast.view(slow.shape), slow)
    inputs = [x, *attn.parameters()]
    weights = torch.randn_like(slow)
    for ours, theirs in zip(*(torch.autograd.grad((out.view(slow.shape) * weights).sum(), inputs)
                              for out in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(attn(x, grid=grid, window_size=3), fast)


def test_compiled_drop_path_keeps_the_mean_and_its_rate():
    """Compiled, the rate is a tensor: two blocks of different rates share one graph."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    x = torch.ones(4000, 2, 3)
    for rate in (0.25, 0.5):
        drop = attention.DropPath(rate).train()
        drop.compile(dynamic=False, backend='aot_eager')
        out = drop(x)
        assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
        assert (out == out[:, :1, :1]).all()  # whole images
        assert abs((out[:, 0, 0] == 0).float().mean() - rate) < 0.04
        drop.eval()
        assert torch.equal(drop(x), x)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 2  # one for training, one for evaluation
    torch.compiler.reset()
