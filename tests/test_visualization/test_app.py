"""What the web page shows: pixels of the model, messages that can be read, features of the right checkpoint."""

import base64
import re
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.features import write_photos
from helpers.pixels import write_png
from helpers.tiny import CONFIG
from mmengine.config import Config
from PIL import Image
from torch import nn

from mae_mm.evaluation import encoder as encoder_module
from mae_mm.evaluation.embed import Images, embed
from mae_mm.visualization import app_viewer
from mae_mm.visualization.app import MAX_ASPECT, Viewers, pair, short_names
from mae_mm.visualization.app_masks import choose_mask
from mae_mm.visualization.panels import load_images, reconstruction_columns

PAINTED = dict(rows=4, cols=4, mask='1000010000000000')


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, 'native_dtype', lambda device: (torch.float32, 'for the tests'))


def write_mae(path: Path, model: nn.Module, config: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = dict(cfg=Config(CONFIG).pretty_text) if config else dict(mae_mm=dict(num_heads=2))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture
def files(make_mae: Callable, tmp_path: Path) -> Path:
    """Two pre-trainings, an extracted encoder, and photos."""
    write_mae(tmp_path / 'a/model.pth', make_mae())
    write_mae(tmp_path / 'b/model.pth', make_mae())
    write_mae(tmp_path / 'encoder.pth', make_mae().backbone, config=False)
    write_photos(tmp_path / 'photos', 5)
    return tmp_path


def pictures(html: str) -> dict[str, np.ndarray]:
    """By caption."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', html)
    return {unescape(name): np.array(Image.open(BytesIO(base64.b64decode(data)))) for data, name in found}


def problem(html: str) -> str:
    return unescape(''.join(re.findall(r'role="alert">(.*?)</p>', html, re.DOTALL)))


def show(viewers: Viewers, image: Path | None, sampler: str = 'random', ratio: float = 0.75, painted: object = None,
         names: list[str] | None = None) -> str:
    return viewers.reconstructions(
        image and str(image), list(viewers.by_name) if names is None else names, sampler, ratio, 3, painted)


@pytest.mark.parametrize(('sampler', 'ratio', 'masked'), [
    ('random', 0.5, '50% masked'), ('block', 0.6, '62% masked'), ('grid', 0.1, '75% masked'),
    ('painted', 0.9, '12% masked')])
def test_pictures_are_those_of_the_model(files: Path, sampler: str, ratio: float, masked: str) -> None:
    viewers = Viewers([str(files / 'a/model.pth')])
    image = files / 'photos/000.png'
    found = pictures(show(viewers, image, sampler, ratio, PAINTED))
    viewer = viewers.by_name['model.pth']
    expected_mask = choose_mask((4, 4), sampler, ratio, 3, PAINTED)
    viewer.model.mask_ratio, viewer.model.mask_sampling = 1 - (~expected_mask).sum().item() / 16, 'random'
    noise = expected_mask.double()  # the visible ones have the lowest
    expected = reconstruction_columns(
        viewer.model, load_images(viewer.pipeline, [str(image)]), noise=noise)
    assert list(expected)[1] == masked
    *names, error = found
    assert names == list(expected)[1:] and re.fullmatch(r'error \(\d+\.\d of 255\)', error)
    for name, picture in list(expected.items())[1:]:
        np.testing.assert_array_equal(found[name], picture[0])
    board = viewers.board(str(image), ['model.pth'], sampler, ratio, 3, PAINTED)
    assert board['mask'] == ''.join(str(int(bit)) for bit in expected_mask[0])
    assert (board['rows'], board['cols']) == (4, 4)


def test_checkpoints_are_compared_under_one_mask(files: Path) -> None:
    viewers = Viewers([str(files / 'a/model.pth'), str(files / 'b/model.pth')])
    assert list(viewers.by_name) == viewers.reconstructing == ['a/model.pth', 'b/model.pth']
    html = show(viewers, files / 'photos/000.png')
    first, second = (pictures(part) for part in re.findall(r'<section.*?</section>', html, re.DOTALL))
    np.testing.assert_array_equal(first['75% masked'], second['75% masked'])
    assert (first['reconstruction'] != second['reconstruction']).any()
    assert 'role="alert"' not in html
    assert 'b/model.pth' not in show(viewers, files / 'photos/000.png', names=['a/model.pth'])


def test_an_encoder_alone_shows_its_tokens_and_says_what_is_missing(files: Path) -> None:
    viewers = Viewers([str(files / 'encoder.pth')])
    assert viewers.reconstructing == []
    html = viewers.views(str(files / 'photos/000.png'), ['encoder.pth'])
    assert list(pictures(html)) == ['original', 'components']
    assert 'Only the encoder is shown' in html and 'CONFIG CHECKPOINT' in html
    assert viewers.board(str(files / 'photos/000.png'), ['encoder.pth'], 'random', 0.75, 0, None) is None


def test_no_image_is_no_mistake(files: Path) -> None:
    viewers = Viewers([str(files / 'a/model.pth')])
    assert show(viewers, None).strip() == '' == viewers.views(None, ['model.pth']).strip()


def test_users_at_the_same_time_get_their_own_masks(files: Path) -> None:
    """The functions share the models, and nothing else: answers are those of one call after the other."""
    viewers = Viewers([str(files / 'a/model.pth')])
    calls = [(files / f'photos/00{i % 5}.png', sampler, 0.25 + 0.1 * (i % 5), PAINTED)
             for i, sampler in enumerate(['random', 'painted', 'grid', 'block'] * 5)]
    expected = [show(viewers, *call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda call: show(viewers, *call), calls)) == expected


# --- files that are no images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


@pytest.mark.parametrize(('content', 'message'), [
    (b'some text', 'supported are JPEG, PNG'),
    (b'', 'supported are JPEG, PNG'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'supported are JPEG, PNG'),
    (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 'supported are JPEG, PNG'),
    (png_header(40_000, 40_000), '1600000000 pixels'),
    (png_header(3_000, 3), f'no side may be over {MAX_ASPECT} times the other'),
    (png_header(64, 64), 'cannot read'),  # no pixels behind it
    (None, 'No such file'),
], ids=['text', 'empty', 'EPS', 'SVG', 'bomb', 'strip', 'no pixels', 'vanished'])
def test_files_that_are_no_images_get_a_message(files: Path, content: bytes | None, message: str) -> None:
    viewers = Viewers([str(files / 'a/model.pth')])
    (files / 'deep').mkdir()
    path = files / 'deep/upload.png'
    if content is not None:
        path.write_bytes(content)
    for html in (show(viewers, path), viewers.views(str(path), ['model.pth'])):
        assert message in problem(html) and 'upload.png' in problem(html)
        assert 'deep' not in html and '<section' not in html
    assert viewers.board(str(path), ['model.pth'], 'random', 0.75, 0, None) is None


def test_masks_that_cannot_be_get_a_message(files: Path) -> None:
    viewers = Viewers([str(files / 'a/model.pth')])
    assert 'not a mask' in problem(show(viewers, files / 'photos/000.png', 'painted', painted=dict(rows=4)))
    # Chosen before the first image: a board to paint on.
    assert 'no patch is masked' in problem(show(viewers, files / 'photos/000.png', 'painted'))
    board = viewers.board(str(files / 'photos/000.png'), ['model.pth'], 'painted', 0.75, 3, None)
    assert board['mask'] == '0' * 16
    empty = dict(PAINTED, mask='0' * 16)
    assert 'no patch is masked' in problem(show(viewers, files / 'photos/000.png', 'painted', painted=empty))


# --- predictions


def test_predictions_are_a_picture_and_a_table(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image that fits into memory with the scores of all classes; what comes from files is text, not HTML."""
    seen = []

    def predict(path: str) -> tuple[np.ndarray, list]:
        seen.append(Image.open(path).size)
        return np.zeros((8, 8, 3), np.uint8), [('<script>', '0.9')] * 30

    viewers = Viewers([str(files / 'a/model.pth')])
    monkeypatch.setattr(viewers.by_name['model.pth'], 'predictor', (('class', 'score'), predict))
    for name, size in {'large': (3000, 1500), 'small': (300, 40)}.items():
        Image.new('RGB', size, 'red').save(files / f'{name}.png')
        html = viewers.views(str(files / f'{name}.png'), ['model.pth'])
        assert next(iter(pictures(html))) == 'prediction'
        assert re.findall(r'<th scope="col">(.*?)</th>', html) == ['class', 'score']
        assert html.count('<td>&lt;script&gt;</td>') == app_viewer.ROWS and '<script>' not in html
    Image.fromarray(np.zeros((99, 1100), np.uint16)).save(files / 'deep.png')
    assert 'more than 8 bits' in problem(viewers.views(str(files / 'deep.png'), ['model.pth']))
    assert seen == [(app_viewer.MAX_SIDE, app_viewer.MAX_SIDE // 2), (300, 40)]


def test_16_bits_reach_a_classifier_or_are_refused(tmp_path: Path) -> None:
    """A reduced copy would have 8; Pillow does not tell RGB of 16 bits from RGB of 8."""
    from mmpretrain.apis import get_model

    cfg = Config.fromfile(ROOT / 'configs/demo/classification_multiband.py')
    cfg.test_dataloader.dataset.pipeline[0].bands = cfg.model.backbone.in_chans = 3
    cfg.data_preprocessor.update(mean=[20000] * 3, std=[2000] * 3)
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=get_model(cfg, device='cpu').state_dict()), tmp_path / 'model.pth')
    viewers = Viewers([str(tmp_path / 'config.py'), str(tmp_path / 'model.pth')])
    for width in (48, app_viewer.MAX_SIDE + 1):
        write_png(tmp_path / f'{width}.png', np.full((40, width, 3), 20000, np.uint16))
    assert viewers.views(str(tmp_path / '48.png'), ['model.pth']).count('<td>') == 4 * 3  # classes, columns
    assert 'more than 8 bits' in problem(viewers.views(str(tmp_path / '1025.png'), ['model.pth']))


# --- nearest images


def test_nearest_images_are_those_of_the_checkpoint_that_made_the_file(files: Path) -> None:
    viewers = Viewers([str(files / 'a/model.pth'), str(files / 'b/model.pth')])
    encoder = viewers.by_name['b/model.pth'].encoder
    embed(encoder, Images([str(files / 'photos')], encoder), files / 'features.npy')
    (files / 'photos/003.png').unlink()
    viewers = Viewers([str(files / 'a/model.pth'), str(files / 'b/model.pth')], [str(files / 'features.npy')])
    html = viewers.views(str(files / 'photos/002.png'), list(viewers.by_name))
    first, second = re.findall(r'<section.*?</section>', html, re.DOTALL)
    assert 'Nearest images' not in first
    names = [unescape(name) for name in re.findall(r'<figcaption title="(.*?)">', second)][2:]
    assert len(names) == 5 and re.fullmatch(r'1\.000 photos/002\.png', names[0])
    assert sum('is not there' in name for name in names) == 1 == sum('003.png' in name for name in names)
    assert re.search(r'data:image/jpeg;base64,\S+" alt="1\.000', second)


@pytest.mark.parametrize(('pool', 'size', 'checkpoint', 'message'), [
    ('tokens', 32, 'a', 'has the tokens of each image'), ('mean', 64, 'a', 'or with --size'),
    ('mean', 32, 'b', 'made by another checkpoint')])
def test_features_that_cannot_be_compared_are_refused(
        files: Path, pool: str, size: int, checkpoint: str, message: str) -> None:
    encoder = encoder_module.load_encoder(files / 'a/model.pth', size)
    embed(encoder, Images([str(files / 'photos')], encoder), files / 'features.npy', pool)
    with pytest.raises(ValueError, match=message):
        Viewers([str(files / f'{checkpoint}/model.pth')], [str(files / 'features.npy')])


# --- the command line


def test_a_config_stands_before_its_checkpoint() -> None:
    assert pair(['a.pth', 'b.py', 'b.pth', 'hf://x/y']) == [(None, 'a.pth'), ('b.py', 'b.pth'), (None, 'hf://x/y')]
    for wrong in (['a.pth', 'b.py'], ['b.py', 'c.py', 'a.pth'], ['a.pth', 'a.pth']):
        with pytest.raises(ValueError, match=r'give its checkpoint after it|given twice'):
            pair(wrong)


@pytest.mark.parametrize(('paths', 'names'), [
    (['x/a.pth', 'x/b.pth'], ['a.pth', 'b.pth']), (['x/a.pth', 'y/a.pth'], ['x/a.pth', 'y/a.pth']),
    (['1/x/a.pth', '2/x/a.pth'], ['1/x/a.pth', '2/x/a.pth']), (['hf://o/n'], ['n'])])
def test_names_are_as_short_as_they_can_be(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


def test_checkpoints_that_show_nothing_are_refused(files: Path) -> None:
    decoder = {name: w for name, w in torch.load(files / 'a/model.pth')['state_dict'].items() if 'neck.' in name}
    torch.save(dict(state_dict=decoder), files / 'decoder.pth')
    with pytest.raises(ValueError, match='holds no ViT'):
        Viewers([str(files / 'decoder.pth')])
    with pytest.raises(FileNotFoundError, match='nowhere'):
        Viewers([str(files / 'nowhere.pth')])


def test_one_checkpoint_that_fails_leaves_the_others(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise RuntimeError('no scores')

    viewers = Viewers([str(files / 'a/model.pth'), str(files / 'b/model.pth')])
    monkeypatch.setattr(viewers.by_name['a/model.pth'], 'predictor', ((), fail))
    html = viewers.views(str(files / 'photos/000.png'), list(viewers.by_name))
    assert problem(html) == 'a/model.pth: no scores' and html.count('<section') == 1
