import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.models.patches import grid_of, patchify, unpatchify

small = st.integers(1, 4)


def test_patch_is_row_column_channel():
    first = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])  # one 2x4 channel, so two 2x2 patches
    imgs = torch.stack([first, first + 10])[None]
    expected = [[[0, 10, 1, 11, 4, 14, 5, 15], [2, 12, 3, 13, 6, 16, 7, 17]]]
    assert patchify(imgs, 2).tolist() == expected


@given(n=small, c=small, rows=small, cols=small, p=small)
def test_unpatchify_inverts_patchify(n, c, rows, cols, p):
    imgs = torch.arange(n * c * rows * p * cols * p).reshape(n, c, rows * p, cols * p)
    patches = patchify(imgs, p)
    assert patches.shape == (n, rows * cols, p * p * c) and patches.dtype == imgs.dtype
    assert torch.equal(unpatchify(patches, p, (rows, cols)), imgs)


@given(c=small, rows=small, cols=small, p=small, data=st.data())
def test_sequence_is_row_major(c, rows, cols, p, data):
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    imgs = torch.arange(c * rows * p * cols * p).reshape(1, c, rows * p, cols * p)
    window = imgs[0, :, row * p:(row + 1) * p, col * p:(col + 1) * p]
    assert torch.equal(patchify(imgs, p)[0, row * cols + col], window.permute(1, 2, 0).flatten())


def test_grid_is_rows_then_columns():
    assert grid_of((32, 64), 8) == (4, 8)


@given(height=st.integers(0, 300), width=st.integers(0, 300), p=st.integers(1, 32))
def test_size_that_patches_do_not_fill_is_refused_with_one_that_they_do(height, width, p):
    if height and width and height % p == 0 and width % p == 0:
        assert grid_of((height, width), p) == (height // p, width // p)
        return
    with pytest.raises(ValueError, match=f'{height}x{width} px .* patches of {p} px') as error:
        grid_of((height, width), p)
    offered = re.search(r'e\.g\. (\d+)x(\d+)', str(error.value))
    offered_height, offered_width = int(offered[1]), int(offered[2])
    grid_of((offered_height, offered_width), p)  # is fine
    if height >= p and width >= p:
        assert abs(offered_height - height) <= p / 2 and abs(offered_width - width) <= p / 2


def test_patchify_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match=r'20x16 px .* e\.g\. 16x16'):
        patchify(torch.zeros(1, 3, 20, 16), 8)


@pytest.mark.parametrize('shape, grid', [((1, 6, 12), (2, 4)), ((1, 8, 13), (2, 4))])
def test_unpatchify_refuses_what_does_not_fit(shape, grid):
    with pytest.raises(RuntimeError, match='unflatten'):
        unpatchify(torch.zeros(shape), 2, grid)
