"""tools/detect.py: pictures of a detector, which keep clear of the user's images and bear broken ones."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.detection import write_coco, write_config
from helpers.tools import run_tool
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from PIL import Image

from mae_mm.checkpoint.exact import is_pretraining
from mae_mm.engine import runner as launch
from mae_mm.models.mae import MAE
from mae_mm.visualization import detect


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint of a detector of three classes, untrained."""
    folder = tmp_path_factory.mktemp('detector')
    data = write_coco(folder / 'data')
    (data / 'images').rename(data / 'pictures')
    text = (data / 'train.json').read_text()
    (data / 'val.json').write_text(text.replace('"file_name": "', '"file_name": "pictures/'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = write_config('vitdet_b_coco', data, folder)
    cfg = launch.load_config(str(config))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    meta = dict(dataset_meta=dict(classes=('boat', 'ant', 'cup')))
    torch.save(dict(state_dict=state, meta=meta), folder / 'trained.pth')
    return config, folder / 'trained.pth'


@pytest.fixture(autouse=True)
def scope() -> None:
    """As under mmdet's runner."""
    init_default_scope('mmdet')


def write_image(path: Path, size: tuple[int, int] = (40, 30), **options: object) -> Path:
    """A picture of (width, height) pixels whose left half is red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, :(size[0] + 1) // 2, 0] = 255
    Image.fromarray(pixels).save(path, **options)
    return path


def run(trained: tuple[Path, Path], images: list[Path], out: Path, **options: object) -> detect.Drawn:
    return detect.detect(*map(str, trained), list(map(str, images)), str(out), **options)


def test_originals_are_not_written_over(trained: tuple[Path, Path], tmp_path: Path) -> None:
    image = write_image(tmp_path / 'mine/a.png')
    before = image.read_bytes()
    for images, out in (([image], image.parent), ([image.parent], image.parent / 'drawn'), ([tmp_path], image.parent)):
        with pytest.raises(ValueError, match=rf'--out {out} is in .*a folder of the images, which would be written'):
            run(trained, images, out)
    with pytest.raises(ValueError, match=r'--panel .*a\.png is one of the images'):
        run(trained, [image], tmp_path / 'out', panel=str(image))
    assert image.read_bytes() == before and sorted(path.name for path in tmp_path.rglob('*')) == ['a.png', 'mine']


def test_broken_and_odd_images_are_skipped_and_equal_names_kept_apart(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture,
) -> None:
    """Also: images that are turned by EXIF, with masks; and those beyond --num are told."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: what was left is up
    write_image(tmp_path / 'one/a.jpg', exif=exif)
    write_image(tmp_path / 'two/a.jpg')
    write_image(tmp_path / 'two/d.png')
    (tmp_path / 'one/b.jpg').write_bytes(b'')
    (tmp_path / 'one/c.jpg').write_text('no picture')
    write_image(tmp_path / 'one/e.png', (3000, 1))
    broken = [tmp_path / 'one' / name for name in ('b.jpg', 'c.jpg', 'e.png')]
    with pytest.raises(SystemExit) as stop:
        run_tool('detect', *trained, tmp_path / 'one', tmp_path / 'two', *broken, '--out', tmp_path / 'out',
                 '--score-thr', '0', '--num', '1', '--panel', tmp_path / 'panel.png')
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert f'{tmp_path}/one: the first 1 of 4 images; --num N for more' in shown.out
    assert f'{tmp_path}/two: the first 1 of 2 images; --num N for more' in shown.out
    assert '3 images could not be drawn:' in shown.err and f'{broken[0]}: empty file' in shown.err
    assert f'{broken[1]}: not an image' in shown.err and f'{broken[2]}: ' in shown.err
    assert Image.open(tmp_path / 'out/one/a.jpg').size == (30, 40)  # upright
    assert Image.open(tmp_path / 'out/two/a.jpg').size == (40, 30)
    assert len(list((tmp_path / 'out').rglob('*.*'))) == 2 and (tmp_path / 'panel.png').exists()


def test_detector_sees_what_is_drawn(trained: tuple[Path, Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: what was left is up
    path = write_image(tmp_path / 'a.png', exif=exif)
    launch.allow_mmengine_objects()
    inferencer = detect.ExactInferencer(launch.load_config(str(trained[0])), str(trained[1]), show_progress=False)
    seen = []

    class Recording:
        visualizer = inferencer.visualizer

        def __call__(self, image: np.ndarray, **options: object) -> dict:
            seen.append(image)
            return inferencer(image, **options)

    drawn = detect.draw(Recording(), str(path), score_thr=1.0, side=0)
    image, = seen
    assert image.shape == (40, 30, 3) and (drawn == image[..., ::-1]).all()
    assert (image[:20] == (0, 0, 255)).all() and not image[20:].any()  # BGR, red above


def test_names_of_pictures() -> None:
    assert detect.picture_names(['x/a.jpg', 'y/z/b.jpg']) == [Path('a.jpg'), Path('b.jpg')]
    assert detect.picture_names(['x/a.jpg', 'x/z/A.jpg', 'x/b.jpg']) == [Path('a.jpg'), Path('z/A.jpg'), Path('b.jpg')]


@pytest.mark.parametrize(('options', 'message'), [
    (dict(num=0), r'--num must be 1 or more, and is 0'), (dict(side=-3), r'--side must be 0 .* and is -3')])
def test_numbers_out_of_range(options: dict, message: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(trained, [write_image(tmp_path / 'in/a.png')], tmp_path / 'out', **options)


def test_checkpoints_of_something_else(
    trained: tuple[Path, Path], tmp_path: Path, make_mae: Callable[..., MAE], capsys: pytest.CaptureFixture,
) -> None:
    """Of pre-training, and of other classes: one message, which says so."""
    image, content = write_image(tmp_path / 'in/a.png'), torch.load(trained[1], weights_only=True)
    state = content['state_dict']
    for key in [key for key in state if 'fc_cls' in key]:
        state[key] = torch.cat([state[key]] * 2)
    content['meta']['dataset_meta']['classes'] = [f'kind {i}' for i in range(7)]
    torch.save(content, tmp_path / 'others.pth')
    torch.save(dict(state_dict=make_mae().state_dict()), tmp_path / 'mae.pth')
    for name, message in (
            ('others.pth', r'others\.pth .*tiny\.py.*: it was trained on 7 classes \(kind 0, kind 1, kind 2, '
                           r'kind 3, …\), the config has 3 \(boat, ant, cup\)'),
            ('mae.pth', r'mae\.pth .*tiny\.py.*: it is a checkpoint of pre-training.*--pretrained CHECKPOINT')):
        with pytest.raises(ValueError, match=message):
            run((trained[0], tmp_path / name), [image], tmp_path / 'out')
        shown = capsys.readouterr()
        assert 'size mismatch' not in shown.out + shown.err and 'missing keys' not in shown.out + shown.err
        with pytest.raises(SystemExit) as stop:
            run_tool('test', trained[0], tmp_path / name, '--work-dir', tmp_path / 'work')
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_pretraining_is_told_from_other_models(make_mae: Callable[..., MAE]) -> None:
    mae = make_mae().state_dict()
    encoder = {key: value for key, value in mae.items() if key.startswith('backbone.')}
    assert is_pretraining(dict(state_dict=mae)) and is_pretraining(dict(state_dict=encoder))
    assert not is_pretraining(dict(state_dict={**encoder, 'roi_head.x': torch.zeros(1)}))
    assert not is_pretraining(dict(state_dict={**encoder, 'head.fc.weight': torch.zeros(2, 2)}))
    assert not is_pretraining(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}))
