"""Masks of the web page: exactly those that were painted or drawn, whatever other users choose."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mae_mm.models.mae import MAE
from mae_mm.models.masking import fixed_noise, random_masking
from mae_mm.visualization.app_masks import (
    BRIGHTEST,
    COLOUR_MAP,
    MAX_BOARD,
    choose_mask,
    error_map,
    fit,
    masking_exactly,
    read_board,
)


def bits(*positions: int, count: int = 16) -> Tensor:
    return torch.isin(torch.arange(count), torch.tensor(positions))[None]


@pytest.mark.parametrize('positions', [(3,), (0, 5, 6, 15), range(15)])
@pytest.mark.parametrize('options', [{}, dict(mask_sampling='grid'), dict(mask_token=True)])
def test_a_model_hides_just_the_painted_patches(
        make_mae: Callable[..., MAE], imgs: Tensor, positions: tuple, options: dict) -> None:
    model, mask = make_mae(**options).eval(), bits(*positions)
    before = {**vars(model)}
    view, noise = masking_exactly(model, mask)
    assert torch.equal(view.reconstruct(imgs[:1], noise).mask, mask)
    assert vars(model) == before and view.backbone is model.backbone


@given(st.lists(st.booleans(), min_size=2, max_size=400).filter(lambda mask: 0 < sum(mask) < len(mask)))
def test_any_mask_of_any_length_is_exact(mask: list[bool]) -> None:
    mask = torch.tensor([mask])
    view, noise = masking_exactly(torch.nn.Identity(), mask)
    assert torch.equal(random_masking(noise, view.mask_ratio).mask, mask)


@pytest.mark.parametrize(('mask', 'message'), [(bits(), 'no patch is masked'), (~bits(), 'every patch is masked')])
def test_masks_without_a_task_are_refused(mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masking_exactly(torch.nn.Identity(), mask)


def test_sampled_masks_are_those_of_training() -> None:
    """The same noise as `tools/visualize.py --seed`; a grid has one ratio."""
    noise = fixed_noise([0], 36, 7)
    assert torch.equal(choose_mask((6, 6), 'random', 0.5, 7.0), random_masking(noise, 0.5).mask)
    assert choose_mask((6, 6), 'grid', 0.3, 0).sum() == 27
    assert choose_mask((6, 6), 'block', 0.5, 0).sum() == 18


def test_a_board_is_read_row_by_row_and_fits_other_grids() -> None:
    board = dict(rows=2, cols=3, mask='100001')
    assert torch.equal(read_board(board, (2, 3)), bits(0, 5, count=6))
    wide = read_board(board, (4, 6)).view(4, 6)
    assert torch.equal(wide, bits(0, 5, count=6).view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(fit(wide.view(1, -1), (4, 6), (2, 3)), bits(0, 5, count=6))


@pytest.mark.parametrize('board', [
    '1' * 16, dict(rows=4, cols=4), dict(rows=4, cols=4, mask='1' * 15), dict(rows=4, cols=4, mask='2' * 16),
    dict(rows='4', cols=4, mask='1' * 16), dict(rows=0, cols=0, mask=''), dict(rows=-4, cols=-4, mask='1' * 16),
    dict(rows=MAX_BOARD + 1, cols=1, mask='1' * (MAX_BOARD + 1)), dict(rows=4.0, cols=4, mask='1' * 16)])
def test_what_is_not_a_board_is_refused(board: object) -> None:
    with pytest.raises(ValueError, match='not a mask'):
        read_board(board, (4, 4))


def test_errors_are_those_of_hidden_pixels() -> None:
    """By hand: errors of (30 + 0 + 0) / 3 = 10, and of more than the brightest, beside one that is visible."""
    original = np.uint8([[[[90, 60, 30], [0, 0, 0], [30, 60, 90]]]])
    reconstruction = np.uint8([[[[60, 60, 30], [255, 255, 255], [0, 0, 0]]]])
    hidden = np.array([True, True, False]).reshape(1, 1, 3, 1)
    colours, mean = error_map(original, reconstruction, hidden)
    assert mean == (10 + 255) / 2
    expected = [COLOUR_MAP[round(10 * 255 / BRIGHTEST)], COLOUR_MAP[255], [60, 60, 60]]
    np.testing.assert_array_equal(colours[0, 0], expected)
