"""Tables, captions and tiles, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_mm.visualization.pictures import GUTTER, caption, list_images, render, resize, save, tile


def test_render_places_every_image() -> None:
    left, right = np.full((2, 40, 90, 3), 10, np.uint8), np.full((2, 40, 90, 3), 200, np.uint8)
    right[1, 0, 0] = (1, 2, 3)
    panel = render({'left': left, 'right': right})
    assert panel.shape == (24 + 2 * (40 + 6), 6 + 2 * (90 + 6), 3) and panel.dtype == np.uint8
    assert (panel[24:64, 6:96] == 10).all() and (panel[70:110, 6:96] == 10).all()
    assert (panel[24:64, 102:192] == 200).all() and (panel[70, 102] == (1, 2, 3)).all()
    assert (panel[24:, 96:102] == 255).all() and (panel[64:70] == 255).all()
    for heading in (panel[:24, 6:96], panel[:24, 102:192]):
        assert heading.min() < 60 and heading[0].min() == heading[-1].min() == heading[:, 0].min() == 255  # not cut off


def test_tile_centres_pictures_of_any_size() -> None:
    sizes = [(20, 30), (10, 10), (20, 10), (10, 30), (20, 30)]
    panel = tile([np.full((*size, 3), i, np.uint8) for i, size in enumerate(sizes)])
    assert panel.shape == (3 * 26 + GUTTER, 2 * 36 + GUTTER, 3)
    for i, (height, width) in enumerate(sizes):
        rows, cols = (panel[..., 0] == i).nonzero()
        top, left = 6 + i // 2 * 26 + (20 - height) // 2, 6 + i % 2 * 36 + (30 - width) // 2
        assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (top, top + height, left, left + width)


def test_captions_are_as_wide_as_their_text() -> None:
    image = np.full((20, 30, 3), 7, np.uint8)
    picture = caption(image, ['0.9 a name longer than the image', '0.1 b'])
    assert picture.shape[1] > 100 and picture.shape[0] == 20 + 2 * 18 + GUTTER
    left = (picture.shape[1] - 30) // 2
    assert np.array_equal(picture[:20, left:left + 30], image) and (picture[:20, :left] == 255).all()
    text = (picture[20:] < 128).any(-1)
    assert text[:18].any() and text[18:36].any() and not text[:, -1].any() and not text[-1].any()  # not cut off


def test_resize_keeps_labels() -> None:
    labels = np.array([[0, 9], [7, 255]], np.uint8)
    assert np.array_equal(resize(labels, 4, smooth=False), labels.repeat(2, 0).repeat(2, 1))
    assert resize(np.zeros((50, 100, 3), np.uint8), 240).shape == (120, 240, 3)
    assert resize(labels, 0) is labels


def test_images_of_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'a').mkdir()
    for name in ('a/2.png', 'a/1.png', 'a/3.txt', 'b.png'):
        Image.new('RGB', (2, 2)).save(tmp_path / name, format='png')
    names = [str(tmp_path / name) for name in ('b.png', 'a/1.png')]
    assert list_images([tmp_path / 'b.png', tmp_path / 'a'], 1) == [tmp_path / 'b.png', names[1]]
    assert capsys.readouterr().out == f'{tmp_path / "a"}: the first 1 of 2 images; use --num N for more\n'
    list_images([tmp_path / 'b.png', tmp_path / 'a'], 2)
    assert not capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match='c: no such file'):
        list_images([tmp_path / 'c'], 1)


def test_save_needs_the_extension_of_an_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    save(image, tmp_path / 'new/a.png')
    assert np.array_equal(np.array(Image.open(tmp_path / 'new/a.png')), image)
    with pytest.raises(ValueError, match=r'a\.txt: .*a\.png'):
        save(image, tmp_path / 'a.txt')


def test_unfinished_pictures_do_not_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(np.zeros((2, 3, 3), np.uint8), tmp_path / 'new/a.jpg')
    assert Image.open(tmp_path / 'new/a.jpg').format == 'JPEG'
    before = (tmp_path / 'new/a.jpg').read_bytes()

    def fill_the_disk(image: Image.Image, path: Path, format: str) -> None:
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', fill_the_disk)
    with pytest.raises(OSError, match='No space'):
        save(np.zeros((9, 9, 3), np.uint8), tmp_path / 'new/a.jpg')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.jpg']
    assert (tmp_path / 'new/a.jpg').read_bytes() == before
