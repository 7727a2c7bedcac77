"""The panel, pixel by pixel, and the masks by their tool."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tools import run_tool
from mmengine.model import MMDistributedDataParallel
from PIL import Image
from torch import Tensor

from mae_mm.models.data_preprocessor import stretch
from mae_mm.models.mae import MAE, Reconstruction
from mae_mm.models.masking import fixed_noise, random_masking
from mae_mm.visualization.panels import HIDDEN, OUTLINE, photos_of, reconstruction_panel
from mae_mm.visualization.pictures import GUTTER, HEADING

RAW_PIXELS = dict(type='mae_mm.ImagePreprocessor', mean=[0.0], std=[1.0])
SCALE = 5  # 32-px images are shown 160 px wide


@pytest.fixture
def photos() -> Tensor:
    """(2, 3, 32, 48) uint8 noise."""
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def answer_with(model: MAE, make_pred: Callable[[Tensor], Tensor]) -> MAE:
    """Let a model's decoder predict `make_pred(target)`, under the masks that it is asked for."""
    def reconstruct(imgs: Tensor, noise: Tensor) -> Reconstruction:
        return Reconstruction(make_pred(model.target(imgs)), random_masking(noise, model.mask_ratio).mask)

    model.reconstruct = reconstruct
    return model


def cells(panel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Take the images out of a panel: (columns, N, height, width, 3)."""
    n, cols = (panel.shape[0] - HEADING) // (height + GUTTER), (panel.shape[1] - GUTTER) // (width + GUTTER)
    rows = panel[HEADING:].reshape(n, height + GUTTER, panel.shape[1], 3)[:, :height, GUTTER:]
    return rows.reshape(n, height, cols, width + GUTTER, 3)[:, :, :, :width].transpose(2, 0, 1, 3, 4)


def shown(imgs: Tensor) -> np.ndarray:
    """(N, 3, H, W) uint8 as a panel shows it."""
    return imgs.permute(0, 2, 3, 1).repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2).numpy()


def hidden_pixels(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """(2, 40 * rows, 40 * cols) bool: pixels of masked 8-px patches, enlarged, for images number 0 and 1."""
    mask = random_masking(fixed_noise([0, 1], rows * cols, seed), 0.75).mask.view(2, rows, cols)
    return mask.repeat_interleave(8 * SCALE, 1).repeat_interleave(8 * SCALE, 2).numpy()


@pytest.mark.parametrize('norm_pix_loss', [True, False])
def test_perfect_answer_gives_the_original_back(make_mae: Callable, photos: Tensor, norm_pix_loss: bool) -> None:
    model = answer_with(make_mae(norm_pix_loss=norm_pix_loss), lambda target: target)
    original, masked, reconstruction, pasted = cells(reconstruction_panel(model, photos), 160, 240)
    hidden = hidden_pixels(4, 6)
    np.testing.assert_array_equal(original, shown(photos))
    np.testing.assert_array_equal(reconstruction, original)
    np.testing.assert_array_equal(pasted, original)
    assert hidden.mean() == 0.75 and (masked[hidden] == HIDDEN).all()
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])


def test_wrong_answer_shows_only_where_masked(make_mae: Callable, photos: Tensor) -> None:
    model = answer_with(make_mae(norm_pix_loss=False, data_preprocessor=RAW_PIXELS), lambda target: 255 - target)
    original, _, reconstruction, pasted = cells(reconstruction_panel(model, photos), 160, 240)
    hidden = hidden_pixels(4, 6)
    np.testing.assert_array_equal(reconstruction, 255 - original)
    np.testing.assert_array_equal(pasted[hidden], 255 - original[hidden])
    np.testing.assert_array_equal(pasted[~hidden], original[~hidden])


@pytest.mark.parametrize('answer', [0.0, 1.0])
def test_normalised_answers_get_mean_and_deviation_of_their_patch(make_mae: Callable, answer: float) -> None:
    """A patch with as many 60s as 100s has mean 80, deviation 20 * sqrt(192 / 191) = 20.05."""
    img = torch.full((1, 3, 32, 32), 60, dtype=torch.uint8)
    img[..., ::2] = 100
    img[..., 16:] += 50  # the right half is brighter
    model = answer_with(make_mae(data_preprocessor=RAW_PIXELS), lambda target: torch.full_like(target, answer))
    reconstruction = cells(reconstruction_panel(model, img), 160, 160)[2]
    assert (reconstruction[:, :, :80] == 80 + 20 * answer).all()
    assert (reconstruction[:, :, 80:] == 130 + 20 * answer).all()


def test_overlay_blends_and_outlines_masked_patches(make_mae: Callable, photos: Tensor) -> None:
    model = answer_with(make_mae(norm_pix_loss=False, data_preprocessor=RAW_PIXELS), lambda t: torch.full_like(t, 255))
    original, *_, overlay = cells(reconstruction_panel(model, photos, overlay=True), 160, 240)
    hidden = hidden_pixels(4, 6)
    inside = hidden.copy()
    inside[:, ::40] = inside[:, :, ::40] = False
    np.testing.assert_array_equal(overlay[inside], (original[inside].astype(int) + 256) // 2)
    assert (overlay[hidden & ~inside] == OUTLINE).all()
    np.testing.assert_array_equal(overlay[~hidden], original[~hidden])


def test_masks_repeat_and_follow_the_seed(make_mae: Callable, photos: Tensor) -> None:
    model = make_mae().eval()
    state, panel = torch.get_rng_state(), reconstruction_panel(model, photos)
    np.testing.assert_array_equal(reconstruction_panel(model, photos), panel)
    assert torch.equal(torch.get_rng_state(), state)
    masked = cells(reconstruction_panel(model, photos, seed=7), 160, 240)[1]
    np.testing.assert_array_equal((masked == HIDDEN).all(-1), hidden_pixels(4, 6, seed=7))
    assert (hidden_pixels(4, 6, seed=7) != hidden_pixels(4, 6)).any()


def test_masks_are_those_of_the_held_out_loss(make_mae: Callable, photos: Tensor) -> None:
    model = make_mae().eval()
    masked = cells(reconstruction_panel(model, photos, sample_idx=[5, 3]), 160, 240)[1]
    samples = model.predict(photos.float(), sample_idx=torch.tensor([5, 3]))
    mask = torch.stack([sample['mask'] for sample in samples]).view(2, 4, 6).numpy()
    np.testing.assert_array_equal((masked == HIDDEN).all(-1)[:, 20::40, 20::40], mask)


@pytest.mark.parametrize(('channels', 'as_shown'), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])])
def test_other_channel_counts(make_mae: Callable, channels: int, as_shown: list[int]) -> None:
    imgs = torch.randint(0, 256, (2, channels, 32, 32), dtype=torch.uint8)
    model = make_mae(backbone=dict(in_chans=channels), data_preprocessor=RAW_PIXELS)
    original = cells(reconstruction_panel(model, imgs), 160, 160)[0]
    np.testing.assert_array_equal(original, shown(imgs[:, as_shown]))


def test_large_images_keep_their_size(make_mae: Callable) -> None:
    imgs = torch.zeros(1, 3, 144, 200, dtype=torch.uint8)
    assert reconstruction_panel(make_mae(), imgs).shape == (24 + 144 + 6, 6 + 4 * (200 + 6), 3)


def test_distributed_wrapper_draws_the_same(make_mae: Callable, photos: Tensor, tmp_path: Path) -> None:
    model = make_mae().eval()
    expected = reconstruction_panel(model, photos)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        np.testing.assert_array_equal(reconstruction_panel(MMDistributedDataParallel(model), photos), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_masks_of_every_sampler_by_the_tool(tmp_path: Path) -> None:
    """Five columns; gray where the sampler hides, the image elsewhere."""
    Image.fromarray(np.full((48, 64, 3), (200, 10, 10), np.uint8)).save(tmp_path / 'red.png')
    run_tool('visualize_masks', tmp_path / 'red.png', '--size', '48', '64', '--patch-size', '8', '--out',
             tmp_path / 'masks.png')
    panel = np.array(Image.open(tmp_path / 'masks.png'))
    height, width = 144, 192  # three times as large
    assert panel.shape == (24 + height + 6, 6 + 5 * (width + 6), 3)
    columns = [panel[24:24 + height, 6 + i * (width + 6):][:, :width] for i in range(5)]
    shares = [float((column == (127, 127, 127)).all(-1).mean()) for column in columns]
    assert shares == [0, 0.75, 0.5, 0.75, 0.75]
    grid = (columns[4][::24, ::24] != 127).any(-1)
    assert grid.sum() == 12 and (grid.reshape(3, 2, 4, 2).sum((1, 3)) == 1).all()


BANDS = ['blue', 'green', 'red', 'nir']


@pytest.mark.parametrize('bands, in_chans, picks', [
    (None, BANDS, [2, 1, 0]), (None, ['blue', 'green', 'vv', 'vh'], [0, 1, 2]), (None, 4, [0, 1, 2]), (None, 2, [0]),
    ([4, 3, 2], 4, [3, 2, 1]), ([2], 4, [1]), (['nir', 3, 'blue'], BANDS, [3, 2, 0])])
def test_which_bands_are_shown(make_mae: Callable, bands: list | None, in_chans: int | list, picks: list[int]) -> None:
    """Each of those bands, stretched as the original is; the decoder adds half a deviation."""
    count = in_chans if isinstance(in_chans, int) else len(in_chans)
    raw = dict(type='mae_mm.ImagePreprocessor', mean=[2000] * count, std=[500] * count)
    model = make_mae(backbone=dict(in_chans=in_chans), norm_pix_loss=False, data_preprocessor=raw)
    model = answer_with(model, lambda target: target + 0.5)
    imgs = torch.randint(1000, 3000, (2, count, 32, 48)).to(torch.uint16)
    original, _, reconstruction, _ = cells(reconstruction_panel(model, imgs, bands=bands), 160, 240)
    three = imgs.float()[:, picks].expand(-1, 3, -1, -1)
    for found, expected in ((original, stretch(three)), (reconstruction, stretch(three + 250, three))):
        assert np.abs(found.astype(int) - shown(expected).astype(int)).max() <= 1
    assert len(np.unique(original)) > 200


def test_what_has_no_data_is_black(make_mae: Callable) -> None:
    model = make_mae(backbone=dict(in_chans=4), data_preprocessor=dict(
        type='mae_mm.ImagePreprocessor', mean=[100] * 4, std=[50] * 4))
    imgs = 100 + 50 * torch.rand(1, 4, 32, 48)
    imgs[:, :, :8] = torch.nan
    original = cells(reconstruction_panel(model, imgs), 160, 240)[0][0]
    assert (original[:40] == 0).all() and (original[40:].mean(0) > 60).all()


def test_pixels_without_data_do_not_count_in_the_stretch(make_mae: Callable) -> None:
    model = answer_with(make_mae(norm_pix_loss=False, data_preprocessor=RAW_PIXELS), lambda target: target)
    imgs = 5 + 0.1 * torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    imgs[..., :12] = torch.nan
    original, _, reconstruction, merged = cells(reconstruction_panel(model, imgs), 160, 240)
    np.testing.assert_array_equal(original, photos_of(imgs))
    assert not reconstruction[:, :, :12 * SCALE].any() and not merged[:, :, :12 * SCALE].any()  # black, too
    known = np.s_[:, :, 12 * SCALE:]
    np.testing.assert_array_equal(reconstruction[known], original[known])  # stretched as its original
    assert len(np.unique(original[known])) > 200


def test_bands_that_cannot_be_shown(make_mae: Callable) -> None:
    model, imgs = make_mae(backbone=dict(in_chans=['red', 'nir', 'vv'])), torch.zeros(1, 3, 32, 32).byte()
    with pytest.raises(ValueError, match=r"no band 'blue' among 3: 'red', 'nir', 'vv'"):
        reconstruction_panel(model, imgs, bands=['red', 'nir', 'blue'])
    with pytest.raises(ValueError, match=r'no band 0 among 3'):
        reconstruction_panel(model, imgs, bands=[0])
    with pytest.raises(ValueError, match=r'2 bands to show, 1, 2: give one, or red, green and blue'):
        reconstruction_panel(model, imgs, bands=[1, 2])
