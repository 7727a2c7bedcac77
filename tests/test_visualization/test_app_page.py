"""`tools/app.py` in a real Chromium: uploads, controls, painting, hostile files, users at once, no other server."""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, free_port
from helpers.browser import BROWSER, LOW_CONTRAST, NAMELESS
from helpers.tiny import DECODER, ENCODER
from mmengine.config import Config
from PIL import Image

from mae_mm.engine.runner import load_config
from mae_mm.models.mae import MAE
from mae_mm.visualization.app_page import serve

pytestmark = pytest.mark.integration
in_browser = pytest.mark.skipif(BROWSER is None, reason='no Chromium here: apt-get install chromium (.ci/run does)')

MODEL = dict(
    type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', **ENCODER), neck=dict(type='mae_mm.MAEDecoder', **DECODER))
PIPELINE = [dict(type='mae_mm.LoadResizeCenterCrop', size=32)]
SECONDS = 60_000  # milliseconds that a page may take on a busy machine
GIB = 1 << 30


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pre-trainings, a classifier of three kinds with its config, and uploads."""
    folder = tmp_path_factory.mktemp('app')
    text = Config(dict(model=MODEL, val_dataloader=dict(dataset=dict(pipeline=PIPELINE)))).pretty_text
    for seed, name in enumerate(('early', 'late')):
        torch.manual_seed(seed)
        model = MAE(**{key: value for key, value in MODEL.items() if key != 'type'})
        torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=text)), folder / f'{name}.pth')
    write_classifier(folder)
    for name, colour in dict(red=(200, 0, 0), blue=(0, 0, 200)).items():
        Image.new('RGB', (50, 40), colour).save(folder / f'{name}.png')
    Image.new('RGB', (10_000, 10_000), 'green').save(folder / 'large.jpg')
    (folder / 'broken.jpg').write_bytes((folder / 'red.png').read_bytes()[:60])
    (folder / 'text.png').write_text('no image')
    return folder


def write_classifier(folder: Path) -> None:
    from mmpretrain.apis import get_model

    cfg = load_config(str(ROOT / 'configs/demo/classification.py'))
    cfg.model.head.num_classes = 3
    cfg.dump(folder / 'classifier.py')
    torch.manual_seed(0)
    meta = dict(dataset_meta=dict(classes=('cat', 'dog', 'cow')))
    torch.save(dict(state_dict=get_model(cfg).state_dict(), meta=meta), folder / 'classifier.pth')


@pytest.fixture(scope='module')
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of the page."""
    port, uploads = free_port(), folder / 'uploads'
    uploads.mkdir()
    names = [folder / name for name in ('early.pth', 'late.pth', 'classifier.py', 'classifier.pth')]
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', 'tools/app.py', *map(str, names), '--port', str(port)], cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'TMPDIR': str(uploads)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    try:
        address = f'http://127.0.0.1:{port}/'
        for _ in range(1500):
            try:
                urllib.request.urlopen(address).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope='module')
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server: tuple[str, int]) -> Iterator[Callable]:
    """A function that opens the page as a new user, at will with an upload, and returns it."""
    contexts = []

    def visit(upload: Path | None = None, **options: object):
        contexts.append(browser.new_context(viewport=dict(width=1400, height=900), **options))
        contexts[-1].set_default_timeout(SECONDS)
        page = contexts[-1].new_page()
        page.requests = []
        page.on('request', lambda request: page.requests.append(request.url))
        page.goto(server[0])
        page.get_by_role('slider', name='Mask ratio').wait_for()
        if upload:
            choose(page, upload)
            shown(page, '75% masked')
        return page

    yield visit
    for context in contexts:
        context.close()


def choose(page, upload: Path) -> None:
    page.locator('input[type=file]').first.set_input_files(upload)


def shown(page, caption: str) -> np.ndarray:
    """The first picture with this caption, once it is there."""
    image = page.get_by_role('img', name=caption, exact=True).first
    image.wait_for()
    return np.array(Image.open(BytesIO(base64.b64decode(image.get_attribute('src').partition(',')[2]))))


def captions(page) -> list[str]:
    return page.locator('.figures img').evaluate_all('images => images.map(image => image.alt)')


@in_browser
def test_upload_controls_and_predictions(visit: Callable, folder: Path) -> None:
    page = visit(folder / 'red.png')
    assert (shown(page, 'original').reshape(-1, 3) == (200, 0, 0)).all()
    # Reconstructions, and what is shown of the whole image.
    assert page.get_by_role('heading', level=2).all_inner_texts() == ['early.pth', 'late.pth'] * 2
    shown(page, 'components')
    page.get_by_role('slider', name='Mask ratio').focus()
    for key in ['ArrowLeft'] * 5:
        page.keyboard.press(key)
    shown(page, '50% masked')
    page.get_by_role('radio', name='grid').check()
    shown(page, '75% masked')
    page.get_by_role('checkbox', name='classifier.pth').check()
    page.get_by_role('cell', name='cat').wait_for()
    assert sorted(page.locator('tbody td:nth-child(2)').all_inner_texts()) == ['cat', 'cow', 'dog']
    page.get_by_role('checkbox', name='early.pth').uncheck()
    page.get_by_role('heading', name='early.pth').first.wait_for(state='detached')
    assert page.get_by_role('row', name='cat').count() == 1


@in_browser
def test_a_mask_is_painted_by_mouse_and_by_keyboard(visit: Callable, folder: Path) -> None:
    page = visit(folder / 'red.png')
    board = page.get_by_role('grid', name='Mask')
    assert board.get_by_role('gridcell').count() == 16
    page.get_by_role('button', name='Show all patches').click()
    page.get_by_role('alert').get_by_text('no patch is masked').wait_for()
    assert page.get_by_role('radio', name='painted').is_checked()
    cells = board.get_by_role('gridcell')
    cells.nth(5).click()
    shown(page, '6% masked')
    box, last = cells.nth(0).bounding_box(), cells.nth(3).bounding_box()
    page.mouse.move(box['x'] + 5, box['y'] + 5)
    page.mouse.down()
    page.mouse.move(last['x'] + 5, last['y'] + 5, steps=12)
    page.mouse.up()
    shown(page, '31% masked')  # the first row, and one patch
    board.focus()
    for key in ('End', 'ArrowDown', 'ArrowDown', 'ArrowLeft', ' '):
        page.keyboard.press(key)
    shown(page, '38% masked')
    picture = shown(page, '38% masked')
    hidden = (picture == 127).all(-1).reshape(4, len(picture) // 4, 4, len(picture) // 4).all((1, 3))
    assert hidden.ravel().nonzero()[0].tolist() == [0, 1, 2, 3, 5, 10]
    assert cells.nth(10).get_attribute('aria-label') == 'row 3, column 3, masked'


@in_browser
def test_what_was_done_last_is_shown_however_slow_the_server(visit: Callable, folder: Path) -> None:
    """Controls are used again before the answers to earlier ones have come."""
    page = visit(folder / 'red.png')
    page.context.new_cdp_session(page).send('Network.emulateNetworkConditions', dict(
        offline=False, latency=300, downloadThroughput=-1, uploadThroughput=-1))
    ratio, clear = page.get_by_role('slider', name='Mask ratio'), page.get_by_role('button', name='Show all patches')
    for _ in range(3):
        ratio.focus()
        page.get_by_role('radio', name='random').check()
        for key in ['ArrowLeft'] * 3:
            ratio.press(key)
        clear.click()
        alert = page.get_by_role('alert').get_by_text('no patch is masked')
        alert.wait_for()
        page.wait_for_timeout(2000)  # an answer to what came before would replace it
        assert alert.count() == 1 and page.locator('[aria-selected=true]').count() == 0
        assert page.get_by_role('radio', name='painted').is_checked()
        for cell in (2, 7, 9):
            page.get_by_role('gridcell').nth(cell).click()
        shown(page, '19% masked')
        hidden = page.locator('[aria-selected=true]').evaluate_all('cells => cells.map(cell => +cell.dataset.index)')
        assert hidden == [2, 7, 9]
        page.get_by_role('gridcell').nth(0).click()  # its answer comes during the next stroke
        first, last = (page.get_by_role('gridcell').nth(cell).bounding_box() for cell in (12, 15))
        page.mouse.move(first['x'] + 5, first['y'] + 5)
        page.mouse.down()
        page.mouse.move(last['x'] + 5, last['y'] + 5, steps=12)
        shown(page, '25% masked')
        page.mouse.up()
        shown(page, '50% masked')


@in_browser
@pytest.mark.parametrize(('name', 'message'), [
    ('broken.jpg', 'broken.jpg'), ('text.png', 'text.png cannot be read as an image: supported are JPEG')])
def test_a_file_that_is_no_image_gets_a_message(visit: Callable, folder: Path, name: str, message: str) -> None:
    page = visit()
    choose(page, folder / name)
    alert = page.get_by_role('alert').first
    alert.get_by_text(message).wait_for()
    assert str(folder) not in alert.inner_text() and '/tmp' not in alert.inner_text()
    page.get_by_role('button', name=re.compile('clear|remove', re.IGNORECASE)).first.click()
    choose(page, folder / 'red.png')  # the page goes on
    shown(page, '75% masked')
    assert page.get_by_role('alert').count() == 0


@in_browser
def test_a_hundred_megapixels_fit(visit: Callable, server: tuple[str, int], folder: Path) -> None:
    before = peak_bytes(server[1])
    page = visit(folder / 'large.jpg')
    page.get_by_role('checkbox', name='classifier.pth').check()
    page.get_by_role('cell', name='cat').wait_for()
    assert (abs(shown(page, 'original') - np.int16([0, 128, 0])) < 3).all()
    assert peak_bytes(server[1]) - before < 1.5 * GIB  # 0.3 are the pixels


def peak_bytes(pid: int) -> int:
    return 1024 * int(re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())[1])


@in_browser
def test_two_users_at_once_see_their_own(visit: Callable, folder: Path) -> None:
    """Both change their masks in turn, without waiting for each other."""
    red, blue = visit(folder / 'red.png'), visit(folder / 'blue.png')
    red.get_by_role('radio', name='grid').check()
    blue.get_by_role('slider', name='Mask ratio').focus()
    for page in (red, blue) * 4:
        page.keyboard.press('ArrowLeft')
    red.get_by_role('radio', name='random').check()
    shown(blue, '56% masked')
    shown(red, '75% masked')
    for page, colour in ((red, (200, 0, 0)), (blue, (0, 0, 200))):
        assert (shown(page, 'original').reshape(-1, 3) == colour).all()
    assert '56% masked' not in captions(red)
    assert blue.get_by_role('radio', name='random').is_checked()


@in_browser
def test_a_picture_is_taken_with_the_camera(visit: Callable) -> None:
    page = visit(permissions=['camera'])
    page.get_by_role('button', name='Capture from camera').click()
    page.get_by_role('button', name='Click to Access Webcam').click()
    page.wait_for_function('document.querySelector("video")?.currentTime > 0.5')
    page.get_by_role('button', name='capture photo').click()
    assert len(np.unique(shown(page, 'original').reshape(-1, 3), axis=0)) > 3  # Chromium's fake camera


@in_browser
def test_nothing_comes_from_other_servers(visit: Callable, server: tuple[str, int], folder: Path) -> None:
    page = visit(folder / 'red.png')
    foreign = [url for url in page.requests if not url.startswith((server[0], 'data:', 'blob:'))]
    assert foreign == [] and len(page.requests) > 10
    links = page.locator('link[href], script[src], img[src]').evaluate_all('all => all.map(one => one.href || one.src)')
    assert [url for url in links if not url.startswith((server[0], 'data:', 'blob:'))] == []
    refused = page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', error => 'refused')")
    policy = page.request.get(server[0]).headers['content-security-policy']
    assert refused == 'refused' and "default-src 'self'" in policy


@in_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_texts_are_readable_and_controls_have_names(visit: Callable, folder: Path, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    assert page.evaluate(LOW_CONTRAST) == [] == page.evaluate(NAMELESS)
    choose(page, folder / 'red.png')
    page.get_by_role('checkbox', name='classifier.pth').check()
    page.get_by_role('cell', name='cat').wait_for()
    page.wait_for_timeout(500)  # until colours have faded in
    assert page.evaluate(LOW_CONTRAST) == [] == page.evaluate(NAMELESS)
    page.get_by_role('button', name='Show all patches').click()
    page.get_by_role('alert').wait_for()
    assert page.evaluate(LOW_CONTRAST) == []


@in_browser
def test_the_keyboard_reaches_everything(visit: Callable, folder: Path) -> None:
    page = visit(folder / 'red.png')
    page.evaluate('document.activeElement.blur()')
    reached = []
    for _ in range(60):
        page.keyboard.press('Tab')
        reached.append(page.evaluate("""() => {
          const it = document.activeElement;
          return it.ariaLabel || it.labels?.[0]?.innerText.trim() || it.innerText || it.type; }"""))
    wanted = ['Remove Image', 'early.pth', 'late.pth', 'classifier.pth', 'random', 'Mask ratio', 'Seed', 'Mask',
              'Show all patches']
    assert [name for name in wanted if not any(name.lower() in one.lower() for one in reached)] == []


def test_a_client_cannot_read_files_of_the_server(server: tuple[str, int], folder: Path) -> None:
    """Neither through the address of files, nor as an image that was never uploaded."""
    with pytest.raises(urllib.error.HTTPError, match='403'):
        urllib.request.urlopen(f'{server[0]}gradio_api/file={folder / "red.png"}')
    config = json.load(urllib.request.urlopen(f'{server[0]}config'))
    views = next(one['id'] for one in config['dependencies'] if len(one['inputs']) == 2)
    for marked in (dict(meta=dict(_type='gradio.FileData')), {}):
        image = dict(path=str(folder / 'red.png'), **marked)
        body = dict(data=[image, ['early.pth']], fn_index=views, session_hash='mine')
        urllib.request.urlopen(urllib.request.Request(
            f'{server[0]}gradio_api/queue/join', json.dumps(body).encode(), {'Content-Type': 'application/json'}))
        answer = urllib.request.urlopen(f'{server[0]}gradio_api/queue/data?session_hash=mine').read().decode()
        assert '"success":false' in answer and 'data:image' not in answer


@pytest.mark.parametrize(('options', 'message'), [
    (dict(port=70_000), '--port 70000 cannot be used'), (dict(host='192.0.2.1'), '--host 192.0.2.1 --port')])
def test_an_address_that_cannot_be_used_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve(['nowhere.pth'], **options)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('GRADIO_ANALYTICS_ENABLED', 'HF_HUB_DISABLE_TELEMETRY', 'GRADIO_TEMP_DIR'):
        monkeypatch.setenv(name, '')  # put back afterwards
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ValueError, match=r'pip install "mae_mm\[app\]"'):
        serve(['nowhere.pth'], port=free_port())


def test_it_is_served_to_this_machine_only(server: tuple[str, int]) -> None:
    import psutil

    addresses = {one.laddr.ip for one in psutil.Process(server[1]).net_connections() if one.status == 'LISTEN'}
    assert addresses == {'127.0.0.1'}


def test_uploads_are_deleted_when_the_page_ends(server: tuple[str, int], folder: Path) -> None:
    """Comes last: a signal ends the page."""
    import psutil

    assert list((folder / 'uploads').glob('mae_mm_app_*/*/red.png')) or BROWSER is None
    process = psutil.Process(server[1])
    process.terminate()
    assert process.wait(SECONDS / 1000) == 0 and not list((folder / 'uploads').iterdir())
