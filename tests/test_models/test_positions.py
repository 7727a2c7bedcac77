import numpy as np
import pytest
import torch
from helpers import numpy_mae
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.models.positions import axis_scores, fixed_table, offset_bias, resize_rel_pos, resize_table, sincos_table


@pytest.mark.parametrize('row, col, channel, expected', [
    # 768 channels: 192 sines and 192 cosines of the column, then of the row; channel 96 of 192 has wavelength 100.
    (0, 0, 0, 0.0),
    (0, 0, 192, 1.0),
    (0, 13, 384, 0.0),
    (13, 0, 0, 0.0),
    (3, 5, 0, -0.9589242746631385),  # sin 5
    (3, 5, 192, 0.28366218546322625),  # cos 5
    (3, 5, 384, 0.1411200080598672),  # sin 3
    (3, 5, 576, -0.9899924966004454),  # cos 3
    (3, 5, 96, 0.04997916927067833),  # sin 0.05
    (3, 5, 288, 0.9987502603949663),  # cos 0.05
    (3, 5, 480, 0.0299955002024957),  # sin 0.03
    (3, 5, 672, 0.9995500337489875),  # cos 0.03
    (13, 12, 48, 0.9320390859672263),  # sin 1.2: wavelength 10
    (13, 12, 432, 0.963558185417193),  # sin 1.3
])
def test_known_entries_of_14_x_14(row, col, channel, expected):
    table = sincos_table(768, (14, 14))
    assert table.shape == (196, 768) and table.dtype == torch.float32
    assert table[row * 14 + col, channel].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize('row, col, channel, expected', [
    # 32 channels: quarters of 8; channels 0, 2, 4 of a quarter have wavelengths 1, 10, 100.
    (2, 7, 0, 0.6569865987187891),  # sin 7
    (2, 7, 2, 0.644217687237691),  # sin 0.7
    (2, 7, 10, 0.7648421872844885),  # cos 0.7
    (2, 7, 4, 0.06994284733753277),  # sin 0.07
    (2, 7, 16, 0.9092974268256817),  # sin 2
    (2, 7, 24, -0.4161468365471424),  # cos 2
    (2, 7, 26, 0.9800665778412416),  # cos 0.2
    (2, 7, 28, 0.9998000066665778),  # cos 0.02
])
def test_known_entries_of_4_x_8(row, col, channel, expected):
    table = sincos_table(32, (4, 8))
    assert table.shape == (32, 32)
    assert table[row * 8 + col, channel].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize('width, grid', [(768, (14, 14)), (32, (4, 8)), (512, (8, 4)), (4, (1, 3))])
def test_equals_the_numpy_table(width, grid):
    np.testing.assert_allclose(sincos_table(width, grid).numpy(), numpy_mae.position_table(width, *grid), atol=1e-7)


@given(quarter=st.integers(1, 12), rows=st.integers(1, 9), cols=st.integers(1, 9))
def test_transposing_the_grid_swaps_the_halves(quarter, rows, cols):
    table = sincos_table(4 * quarter, (rows, cols)).view(rows, cols, 2, -1)
    turned = sincos_table(4 * quarter, (cols, rows)).view(cols, rows, 2, -1)
    assert torch.equal(table, turned.transpose(0, 1).flip(2))


@given(quarter=st.integers(1, 12), rows=st.integers(2, 9), cols=st.integers(2, 9))
def test_similarity_depends_on_the_distance_only(quarter, rows, cols):
    table = sincos_table(4 * quarter, (rows, cols)).view(rows, cols, -1).double()
    torch.testing.assert_close(table.square().sum(-1), torch.full((rows, cols), 2.0 * quarter).double())
    products = (table[:-1, :-1] * table[1:, 1:]).sum(-1)
    torch.testing.assert_close(products, products[:1, :1].expand_as(products), atol=1e-5, rtol=0)


def test_width_that_does_not_divide_by_4_is_refused():
    with pytest.raises(ValueError, match='embed_dim=30 must be a multiple of 4'):
        sincos_table(30, (4, 4))


# --- resizing


@pytest.mark.parametrize('grid', [(4, 4), (2, 8), (8, 2), (1, 5)])
def test_resizing_a_table_to_its_own_grid_is_the_identity(grid):
    table = torch.randn(1, 1 + grid[0] * grid[1], 8)
    assert torch.equal(resize_table(table, grid, grid), table)


def test_table_of_as_many_patches_in_another_shape_is_resized():
    table = fixed_table(32, (2, 8))
    out = resize_table(table, (2, 8), (4, 4))
    assert out.shape == table.shape and not torch.allclose(out, table)
    row_channels = out[0, 1:, 16:].view(4, 4, 16)  # they tell rows apart, and columns not
    torch.testing.assert_close(row_channels, row_channels[:, :1].expand_as(row_channels))
    assert (row_channels[0] - row_channels[3]).abs().max() > 0.5


def test_resized_table_keeps_the_class_row_and_its_corners():
    table = torch.zeros(1, 17, 2)
    table[0, 0] = 7
    table[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)  # the row
    table[0, 1:, 1] = torch.arange(4.0).repeat(4)  # the column
    out = resize_table(table, (4, 4), (8, 12))
    assert out[0, 0].tolist() == [7, 7]
    rows, cols = out[0, 1:].view(8, 12, 2).unbind(-1)
    assert (rows.diff(dim=0) > 0)[1:-1].all() and (cols.diff(dim=1) > 0)[:, 2:-2].all()
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 12))
    torch.testing.assert_close(rows[3:5, 0].mean(), torch.tensor(1.5))
    torch.testing.assert_close(cols[0, 5:7].mean(), torch.tensor(1.5))


def test_relative_tables_are_resampled_to_other_grids() -> None:
    """A table that is linear in the offset stays linear; the grid's own table is used unchanged."""
    table = torch.linspace(-3, 3, 7)[:, None]
    assert resize_rel_pos(table, (7, 1)) is table
    steps = resize_rel_pos(table, (15, 1))[:, 0].diff()
    torch.testing.assert_close(steps[2:-2], steps[2:-2].mean().expand(10), rtol=1e-4, atol=1e-4)
    bias = torch.randn(2, 7, 7)
    assert offset_bias(bias, torch.zeros(2, 3), (6, 3)).shape == (2, 19, 19)


def test_gradients_of_relative_positions_need_no_index_put():
    """On a GPU that sorts all positions, tens of thousands for a grid of 64 x 64, once for each block."""
    table, class_bias = torch.randn(2, 5, 5, requires_grad=True), torch.zeros(2, 3)
    axes = [torch.randn(5, 8, requires_grad=True) for _ in range(2)]
    with torch.profiler.profile() as profile:
        offset_bias(table, class_bias, (3, 3)).sum().backward()
        scores = axis_scores(torch.ones(1, 1, 9, 8), (3, 3), tuple(axes))
        torch.cat(scores, -1).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert 'aten::unfold_backward' in names and not any('index' in name for name in names)
    uses = torch.tensor([1.0, 2, 3, 2, 1])  # how often each offset occurs among 3 places
    torch.testing.assert_close(table.grad, (uses[:, None] * uses).expand(2, 5, 5))
    torch.testing.assert_close(axes[0].grad, 3 * uses[:, None].expand(5, 8))
