"""Windows of tokens."""

import pytest
import torch

from mae_mm.models.windows import from_windows, to_windows


@pytest.mark.parametrize('grid', [(4, 6), (5, 7), (3, 2), (1, 9)])
def test_round_trip(grid: tuple[int, int]) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 5)
    windows, _ = to_windows(tokens, grid, 3)
    assert torch.equal(from_windows(windows, grid, 3), tokens)


def test_hand_worked() -> None:
    """A 3 x 3 grid in windows of 2: the last column and row are half filling."""
    windows, mask = to_windows(torch.arange(1., 10).view(1, 9, 1), (3, 3), 2)
    assert windows[..., 0].tolist() == [[1, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0]]
    assert torch.equal(mask[:, 0, 0], windows[..., 0] > 0)


def test_no_mask_without_filling() -> None:
    assert to_windows(torch.zeros(1, 16, 1), (4, 4), 2)[1] is None


def test_windowed_blocks_equal_a_loop_over_windows(make_vit) -> None:
    """Each window through the block alone, cut to its real tokens: filling changes nothing."""
    vit = make_vit(arch=dict(embed_dim=32, depth=4, num_heads=2), out_type='featmap', window_size=3).eval()
    vit.global_blocks = set()
    imgs = torch.randn(2, 3, 40, 56)  # 5 x 7 patches
    x = vit.embed(imgs).view(2, 5, 7, 32)
    for block in vit.blocks:
        out = torch.empty_like(x)
        for top in range(0, 5, 3):
            for left in range(0, 7, 3):
                window = x[:, top:top + 3, left:left + 3]
                alone = block(window.reshape(2, -1, 32))
                out[:, top:top + 3, left:left + 3] = alone.view(window.shape)
        x = out
    torch.testing.assert_close(vit(imgs)[0], x.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_windows_need_feature_maps(make_vit) -> None:
    with pytest.raises(ValueError, match='window_size=3'):
        make_vit(window_size=3, out_type='raw')
