"""What `tools/visualize.py` writes for every kind of checkpoint, as a picture and as a page, and what it refuses."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import BROWSER
from helpers.tiny import CONFIG
from helpers.tools import run_tool
from mmengine.config import Config
from PIL import Image
from torch import nn

from mae_mm.evaluation import encoder as encoder_module
from mae_mm.models.data_preprocessor import stretch
from mae_mm.visualization import page as page_module
from mae_mm.visualization import views as views_module
from mae_mm.visualization.panels import reconstruction_panel
from mae_mm.visualization.pictures import GUTTER, HEADING
from mae_mm.visualization.views import COLOUR_MAP, OPACITY, resized

TITLES = ['Reconstruction', 'Principal components', 'Attention', 'Neighbours']
ALL = ['reconstruction', 'pca', 'attention', 'neighbours']


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, 'native_dtype', lambda device: (torch.float32, 'for the tests'))


@pytest.fixture
def files(make_mae: Callable, make_vit: Callable, tmp_path: Path) -> Path:
    """A folder with config.py, checkpoints of all kinds, and photos/{a,b,c}.png."""
    Config(CONFIG).dump(tmp_path / 'config.py')
    text = Config(CONFIG).pretty_text
    weights = make_mae().state_dict()
    encoder = {name: w for name, w in weights.items() if name.startswith('backbone.')}
    heads = dict(mae_mm=dict(num_heads=2))
    detector = make_vit(out_type='featmap', window_size=2, arch=dict(embed_dim=32, depth=8, num_heads=2))
    rpn, heads_of_windows = {'rpn_head.weight': torch.ones(2)}, dict(mae_mm=dict(num_heads=2, window_size=2))
    for name, state, meta in (
            ('model', weights, dict(cfg=text)), ('bare', weights, heads), ('encoder', encoder, dict(cfg=text)),
            ('classifier', state_of(make_vit(out_type='avg_featmap')), heads),
            ('detector', {**state_of(detector), **rpn}, heads_of_windows),
            ('segmentor', {**state_of(make_vit(out_type='featmap')), 'decode_head.weight': torch.ones(2)}, heads),
            ('decoder', {name: w for name, w in weights.items() if name.startswith('neck.')}, heads)):
        torch.save(dict(state_dict=state, meta=meta), tmp_path / f'{name}.pth')
    for folder in ('photos', 'empty'):
        (tmp_path / folder).mkdir()
    for i, name in enumerate('abc'):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'photos/{name}.png')
    return tmp_path


def state_of(vit: nn.Module) -> dict:
    return {f'backbone.{name}': weight for name, weight in vit.state_dict().items()}


def draw(files: Path, checkpoint: str, *options: object, out: str = 'out/page.html', what: list[str] = ALL) -> Path:
    run_tool('visualize', files / checkpoint, files / 'photos', '--out', files / out, '--what', *what, *options)
    return files / out


def columns_of(picture: Path, height: int, width: int) -> np.ndarray:
    """The images of a picture: (columns, N, height, width, 3)."""
    panel = np.array(Image.open(picture))
    n, cols = (panel.shape[0] - HEADING) // (height + GUTTER), (panel.shape[1] - GUTTER) // (width + GUTTER)
    rows = panel[HEADING:].reshape(n, height + GUTTER, panel.shape[1], 3)[:, :height, GUTTER:]
    return rows.reshape(n, height, cols, width + GUTTER, 3)[:, :, :, :width].transpose(2, 0, 1, 3, 4)


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text())[1])


def directions(data: dict) -> np.ndarray:
    """The tokens in a page, (N * L, d), of length one."""
    tokens = np.frombuffer(base64.b64decode(data['tokens']), np.int8).reshape(-1, data['dims']).astype(float)
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


@pytest.mark.parametrize(('checkpoint', 'options'), [('model', []), ('bare', ['--config', 'config.py'])])
def test_reconstruction_of_files_and_folders(files: Path, make_mae: Callable, checkpoint: str, options: list) -> None:
    """By the config that is stored in the checkpoint, or by that of --config."""
    options = [files / option if option == 'config.py' else option for option in options]
    run_tool(
        'visualize', files / f'{checkpoint}.pth', files / 'photos/c.png', files / 'photos', '--num', 2, '--out',
        files / 'new/panel.png', '--mask-ratio', 0.5, '--seed', 3, '--overlay', *options)
    imgs = torch.stack([torch.from_numpy(np.array(Image.open(files / f'photos/{name}.png'))) for name in 'cab'])
    model = make_mae(mask_ratio=0.5).eval()
    model.load_state_dict(torch.load(files / 'model.pth')['state_dict'])
    expected = reconstruction_panel(model, imgs.permute(0, 3, 1, 2), seed=3, overlay=True)
    np.testing.assert_array_equal(np.array(Image.open(files / 'new/panel.png')), expected)


@pytest.mark.parametrize('what', [['reconstruction'], ['pca']])
def test_bands_of_files(files: Path, make_mae: Callable, what: list[str]) -> None:
    """Of a checkpoint that names its bands; a folder of arrays needs no option."""
    bands = ['blue', 'green', 'red', 'nir']
    config = Config(CONFIG)
    config.model.backbone.in_chans = bands
    config.model.data_preprocessor = dict(type='mae_mm.ImagePreprocessor', mean=[2000] * 4, std=[500] * 4)
    config.val_dataloader.dataset.pipeline[0].update(dtype='uint16', bands=4)
    weights = make_mae(backbone=dict(in_chans=bands), data_preprocessor=config.model.data_preprocessor).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(cfg=config.pretty_text)), files / 'bands.pth')
    (files / 'tiles').mkdir()
    img = np.random.default_rng(0).integers(1000, 3000, (32, 32, 4), np.uint16)
    np.save(files / 'tiles/a.npy', img)
    for option, picks in (([], [2, 1, 0]), (['--bands', 'nir', '1', '2'], [3, 0, 1])):
        run_tool('visualize', files / 'bands.pth', files / 'tiles', '--out', files / 'x.png', '--what', *what, *option)
        expected = stretch(torch.from_numpy(img[None, ..., picks]).permute(0, 3, 1, 2))[0].permute(1, 2, 0).int()
        shown = columns_of(files / 'x.png', 160, 160)[0, 0, ::5, ::5].astype(int)
        assert np.abs(shown - expected.numpy()).max() <= 1


@pytest.mark.parametrize('checkpoint', ['model', 'bare', 'encoder', 'classifier', 'segmentor', 'detector'])
def test_every_kind_of_checkpoint(files: Path, checkpoint: str) -> None:
    what = ALL if checkpoint == 'model' else ALL[1:]
    page = draw(files, f'{checkpoint}.pth', '--size', 16, 40, what=what).read_text()
    assert re.findall('<h2>(.*)</h2>', page) == TITLES[4 - len(what):]
    assert '3 images of 16×40 px' in page
    assert ('class token</' not in page) and ('from all patches, in the mean' in page) == (checkpoint == 'detector')
    assert (data := data_of(files / 'out/page.html'))['rows'] == 2 and data['cols'] == 5 and data['dims'] == 32


def test_picture_of_all_views(files: Path) -> None:
    """Heads and queries have columns of their own; the patch itself is the brightest, with a frame around it."""
    picture = draw(files, 'model.pth', '--size', 16, 40, '--patch', '2:17,9', '1:0,0', '--block', 0, out='all.png')
    columns = columns_of(picture, 144, 360)
    assert len(columns) == 4 + 1 + (1 + 2) + 2
    gray = columns[0].mean(-1, keepdims=True)
    expected = np.rint(OPACITY * COLOUR_MAP[255].astype(float) + (1 - OPACITY) * gray)
    brightest = [(np.abs(column - expected).max(-1) <= 1).reshape(3, 2, 72, 5, 72).all((2, 4)) for column in columns]
    assert np.argwhere(brightest[-2]).tolist() == [[1, 1, 2]] and np.argwhere(brightest[-1]).tolist() == [[0, 0, 0]]
    assert (columns[-2][1, 71, 144:216] == 255).all() and (columns[-2][1, 70, 144:216] == 0).all()
    for head in brightest[5:8]:  # each image has its maximum
        assert head.sum((1, 2)).tolist() == [1, 1, 1]
    other = columns_of(draw(files, 'model.pth', '--size', 16, 40, '--block', 1, out='other.png'), 144, 360)
    assert (other[4] != columns[4]).any() and (other[5] != columns[5]).any()  # tokens and attention of the block


def test_components_share_one_basis(files: Path) -> None:
    """An image has the same colours wherever it is in the row, and equal images have equal colours."""
    shutil.copy(files / 'photos/a.png', files / 'photos/d.png')
    columns = columns_of(draw(files, 'encoder.pth', out='pca.png', what=['pca']), 160, 160)
    assert columns.shape[:2] == (2, 4) and np.array_equal(columns[1, 0], columns[1, 3])
    assert (columns[1, 0] != columns[1, 1]).any()
    patches = columns[1].reshape(4, 4, 40, 4, 40, 3)
    assert (patches == patches[:, :, :1, :, :1]).all()  # a colour for each patch


def test_large_pictures_are_shrunk(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, 'MAX_SIDE', 120)
    picture = draw(files, 'model.pth', '--size', 144, 288, out='all.png', what=['reconstruction', 'pca'])
    assert Image.open(picture).size == (GUTTER + 5 * (120 + GUTTER), HEADING + 3 * (60 + GUTTER))


# --- the page


def test_page_is_one_file_that_everybody_can_read(files: Path) -> None:
    shutil.copy(files / 'photos/a.png', files / 'photos/<b>&"ü.png')
    shutil.move(files / 'photos/c.png', os.fsencode(files / 'photos') + b'/c\xff.png')  # which UTF-8 does not have
    page = draw(files, 'model.pth').read_text(encoding='utf-8')
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and '://' not in re.sub(r'data:[^"]*', '', page)
    images = re.findall(r'<img [^>]*>', page)
    assert len(images) == 4 + 4 * (4 + 2 + (2 + 2) + (1 + 4)) and all(re.search(r'alt="[^"]+"', one) for one in images)
    assert 'attention' not in images[0] and 'alt="head 1: image 4, c\\xff.png"' in page
    assert '<b>' not in page and data_of(files / 'out/page.html')['names'][0] == '<b>&"ü.png'
    assert len(re.findall('class="photo" tabindex="0"', page)) == 4


def test_clicks_find_the_patch_itself(files: Path) -> None:
    data = data_of(draw(files, 'encoder.pth', '--patch', '2:30,5', what=['neighbours']))
    assert (data['rows'], data['cols'], data['patch'], data['start']) == (4, 4, 8, '2:28,4')
    unit = directions(data)
    assert unit.shape == (48, 32) and ((unit @ unit.T).argmax(1) == np.arange(48)).all()


def test_many_tokens_take_fewer_numbers_or_cannot_be_clicked(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, 'MAX_TOKENS', 48 * 20)
    page = draw(files, 'encoder.pth', what=['neighbours'])
    assert data_of(page)['dims'] == 20 and '20 of 32 principal directions' in page.read_text()
    monkeypatch.setattr(page_module, 'MAX_TOKENS', 48 * 15)
    page = draw(files, 'encoder.pth', what=['neighbours']).read_text()
    assert 'too many tokens for a page' in page and '<script' not in page and '<h2>Neighbours' in page


def test_pictures_of_a_page_shrink_to_its_limit(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, 'MAX_PIXELS', 3 * 2 * 100**2)
    page = draw(files, 'encoder.pth', what=['pca']).read_text()
    data = re.findall(r'<td><img src="data:image/jpeg;base64,([^"]*)"', page)
    (files / 'cell.jpg').write_bytes(base64.b64decode(data[0]))
    assert len(data) == 6 and Image.open(files / 'cell.jpg').size == (100, 100)


@pytest.mark.skipif(BROWSER is None, reason='no Chromium here')
def test_page_in_a_browser(files: Path) -> None:
    """Click, arrow keys and address choose patches; the chosen patch has the brightest colour."""
    page = draw(files, 'encoder.pth', what=['neighbours'])
    script = """<script>
      const box = photos[2].getBoundingClientRect(), said = [document.getElementById('status').textContent];
      const at = {clientX: box.left + 0.6 * box.width, clientY: box.top + 0.1 * box.height, bubbles: true};
      photos[2].dispatchEvent(new MouseEvent('click', at));
      said.push(document.getElementById('status').textContent, location.hash);
      for (const key of ['ArrowDown', 'ArrowLeft', 'ArrowUp', 'ArrowUp'])
        photos[2].dispatchEvent(new KeyboardEvent('keydown', {key}));
      said.push(document.getElementById('status').textContent, getComputedStyle(mark).left, String(box.width));
      const pixel = photos[2].querySelector('canvas').getContext('2d').getImageData(1, 0, 1, 1).data;
      document.body.dataset.said = JSON.stringify([...said, [...pixel], photos.indexOf(mark.parentNode)]);
    </script>"""
    page.write_text(page.read_text() + script)
    out = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={files / "profile"}', '--dump-dom',
         f'{page.as_uri()}#1:9,31'], capture_output=True, text=True, timeout=120).stdout
    said = json.loads(re.search(r'data-said="([^"]*)"', out)[1].replace('&quot;', '"'))
    assert said[0].startswith('Patch 1:12,28 of a.png. Most similar: ')
    assert said[1].startswith('Patch 3:20,4 of c.png.') and said[2] == '#3:20,4'
    assert said[3].startswith('Patch 3:12,4 of c.png.')
    assert float(said[4].removesuffix('px')) == pytest.approx(float(said[5]) / 4, abs=1)
    assert said[6] == [*COLOUR_MAP[255].tolist(), 255] and said[7] == 2
    unit = directions(data_of(page))
    similarity = unit @ unit[13]
    best = np.argsort(-similarity)[1]
    image, row, col = best // 16 + 1, best % 16 // 4, best % 4
    assert f'Most similar: {image}:{8 * col + 4},{8 * row + 4} ({similarity[best]:.2f})' in said[0]


# --- what is refused


@pytest.mark.parametrize(('checkpoint', 'image', 'options', 'message'), [
    ('encoder.pth', 'photos', [], 'encoder.pth holds an encoder only'),
    ('bare.pth', 'photos', [], 'bare.pth does not contain its config; give it with --config'),
    ('config.py', 'photos', [], 'config.py is a config, not a checkpoint'),
    ('decoder.pth', 'photos', ['--what', 'pca'], 'decoder.pth was not loaded: it holds no ViT'),
    ('model.pth', 'nowhere', [], 'nowhere: no such file or folder'),
    ('model.pth', 'empty', [], 'empty: no image in this folder'),
    ('model.pth', 'config.py', [], 'config.py: not an image'),
    ('model.pth', 'photos', ['--mask-ratio', 1], 'mask_ratio=1.0 must be in (0, 1)'),
    ('model.pth', 'photos', ['--num', 0], '--num must be 1 or more, got 0'),
    ('none.pth', 'photos', [], 'none.pth'),
    ('model.pth', 'photos', ['--size', 30], '30x30 px (height x width) cannot be divided into patches of 8 px'),
    ('model.pth', 'photos', ['--size', 8, 8, 8], '--size must be one number, or height and width'),
    ('model.pth', 'photos', ['--patch', '1:1,1'], '--patch 1:1,1 needs --what neighbours'),
    ('model.pth', 'photos', ['--what', 'neighbours', '--patch', '4:1,1'], '--patch 4:1,1 is outside: images are 1 … 3'),
    ('model.pth', 'photos', ['--what', 'neighbours', '--patch', '1:1,32'], 'Y is 0 … 31'),
    ('model.pth', 'photos', ['--what', 'neighbours', '--patch', '1,1'], "must be IMAGE:X,Y, e.g. 1:16,16, got '1,1'"),
    ('model.pth', 'photos', ['--what', 'pca', '--block', 2], '--block 2: the encoder has blocks 0 … 1'),
    ('detector.pth', 'photos', ['--what', 'attention', '--block', 0], 'block 0 attends in windows of 2x2 tokens'),
])
def test_tool_refuses_with_one_message(
        files: Path, capsys: pytest.CaptureFixture, checkpoint: str, image: str, options: list, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run_tool('visualize', files / checkpoint, files / image, '--out', files / 'x.html', *options)
    assert stop.value.code == 2 and not (files / 'x.html').exists()
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


def test_images_are_not_overwritten(files: Path, capsys: pytest.CaptureFixture) -> None:
    image = files / 'photos/a.png'
    before = image.read_bytes()
    for tool, first, images in (('visualize', [files / 'model.pth'], image), ('visualize_masks', [], image.parent)):
        with pytest.raises(SystemExit, match='2'):
            run_tool(tool, *first, images, '--out', image)
        assert f'{image} is one of the images' in capsys.readouterr().err and image.read_bytes() == before
    with pytest.raises(SystemExit, match='2'):
        run_tool('visualize', files / 'none.pth', image, '--out', files / 'x')
    assert 'x: not the extension of an image format' in capsys.readouterr().err


def test_another_size_is_read_in_the_same_way() -> None:
    pipeline = [dict(type='mae_mm.LoadResizeCenterCrop', size=32, resize=40, channels='gray', dtype='keep')]
    assert resized(pipeline, None) == pipeline
    assert resized(pipeline, (16, 48)) == [
        dict(type='mae_mm.LoadResizeCenterCrop', size=(16, 48), channels='gray', dtype='keep')]
