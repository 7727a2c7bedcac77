"""tools/predict.py: the right pixels, the right classes, the user's images untouched, broken ones listed."""

import copy
import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.detection import write_coco, write_config
from helpers.pixels import ramp, write_geotiff
from helpers.tiny import DECODER, ENCODER
from helpers.tools import run_tool
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image
from torch import nn

from mae_mm.engine.runner import load_config
from mae_mm.models.mae import MAE
from mae_mm.registry import MODELS
from mae_mm.visualization.panels import load_images, load_model, picture_of, read_rgb, reconstruction_panel
from mae_mm.visualization.predict import build, overlay, picture_names, predict, true_labels

pytestmark = pytest.mark.integration

HOSTS = ('mmpretrain', 'mmdet', 'mmseg')
ARCH = dict(embed_dim=32, depth=4, num_heads=2)
PALETTE = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter turn to the right: what was left is up


@pytest.fixture(autouse=True)
def scope() -> None:
    """Leave the default scope as it was."""
    before = DefaultScope.get_current_instance()
    yield
    if before is not None:
        init_default_scope(before.scope_name)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a small, untrained model of each host."""
    folder = tmp_path_factory.mktemp('trained')
    data = write_coco(folder / 'data')
    (data / 'val.json').write_text((data / 'train.json').read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        configs = dict(mmdet=write_config('vitdet_b_coco', data, folder))
    classifier = Config.fromfile(ROOT / 'configs/demo/classification.py')
    segmentor = Config.fromfile(ROOT / 'configs/demo/segmentation.py')
    segmentor.test_dataloader.dataset.update(data_root=str(folder / 'ade'))
    for host, cfg in dict(mmpretrain=classifier, mmseg=segmentor).items():
        configs[host] = folder / f'{host}.py'
        cfg.dump(configs[host])
    return {host: (config, save_model(host, config, folder / f'{host}.pth')) for host, config in configs.items()}


def save_model(host: str, config: Path, path: Path) -> Path:
    """Write a checkpoint of a config's model with random weights, as mmengine would."""
    cfg, registry = load_config(str(config)), __import__(f'{host}.registry', fromlist=['MODELS'])
    init_default_scope(host)
    torch.manual_seed(0)
    if host == 'mmpretrain':
        cfg.model.data_preprocessor = cfg.data_preprocessor
    model = registry.MODELS.build(cfg.model)
    classes = dict(mmdet=('boat', 'ant', 'cup'), mmpretrain=tuple(f'kind {i}' for i in range(12))).get(host)
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def write_image(path: Path, size: tuple[int, int] = (40, 30), colour: int = 0, **options: object) -> Path:
    """A picture of (width, height) pixels whose left half is red (or another channel)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, :(size[0] + 1) // 2, colour] = 255
    Image.fromarray(pixels).save(path, **options)
    return path


def run(trained: tuple[Path, Path], images: list[Path], out: Path, **options: object) -> tuple[list[Path], list[str]]:
    return predict(*map(str, trained), list(map(str, images)), str(out), **options)


def read_table(folder: Path) -> list[dict[str, str]]:
    with open(folder / 'predictions.csv', newline='') as file:
        return list(csv.DictReader(file))


# ---- pixels ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('host', HOSTS)
def test_models_receive_rgb_upright(host: str, trained: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red above, black below, after EXIF's quarter turn: the first channel is the bright one, in its upper half."""
    seen, warned = [], []
    monkeypatch.setattr('mmengine.logging.print_log', lambda text, *args, **options: warned.append(text))
    monkeypatch.setattr('mae_mm.models.vit.ViT.forward', record(seen, monkeypatch))
    _, predict_image = build(load_config(str(trained[host][0])), str(trained[host][1]), score_thr=1.0)
    with pytest.raises(StopIteration):
        predict_image(str(write_image(tmp_path / 'a.jpg', (40, 40), exif=TURNED, quality=95)))
    assert not any('Failed to search registry' in text for text in warned)
    imgs, = seen
    height = imgs.shape[-1]  # padding is below
    upper, lower = imgs[0, :, 5:height // 2 - 5].mean((1, 2)), imgs[0, :, height // 2 + 5:height - 5].mean((1, 2))
    assert upper[0] > 1.5 and upper[1] < -1 and upper[2] < -1, upper  # (255 - mean) / std = 2.2, (0 - mean) / std = -2
    assert lower.max() < -1, lower


def record(seen: list, monkeypatch: pytest.MonkeyPatch) -> Callable:
    def forward(self: nn.Module, imgs: torch.Tensor, *args: object) -> None:
        seen.append(imgs)
        raise StopIteration
    return forward


def test_detector_sees_what_is_drawn(trained: dict, tmp_path: Path) -> None:
    path = write_image(tmp_path / 'a.png', exif=TURNED)
    _, predict_image = build(load_config(str(trained['mmdet'][0])), str(trained['mmdet'][1]), score_thr=1.1)
    picture, rows = predict_image(str(path))
    assert rows == [] and picture.shape == (40, 30, 3)
    assert (picture[:20] == (255, 0, 0)).all() and not picture[20:].any()


def test_detections_in_multiband_images(trained: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six bands reach the model, the first three are drawn on."""
    cfg, config = Config.fromfile(trained['mmdet'][0]), tmp_path / 'config.py'
    cfg.model.backbone.in_chans = 6
    cfg.model.data_preprocessor = dict(
        type='mae_mm.ImagePreprocessor', mean=[1000] * 6, std=[500] * 6,
        host=dict(type='mmdet.DetDataPreprocessor', pad_mask=True, pad_size_divisor=64))
    cfg.test_dataloader.dataset.pipeline[0] = dict(type='mae_mm.LoadImage', bands=6)
    cfg.dump(config)
    np.save(tmp_path / 'a.npy', np.full((40, 48, 6), [1000, 1500, 2000, 0, 500, 1000], np.uint16))
    model = config, save_model('mmdet', config, tmp_path / 'model.pth')
    run(model, [tmp_path / 'a.npy'], tmp_path / 'out', score_thr=0.0)
    assert 0 < len(read_table(tmp_path / 'out')) <= 5
    assert Image.open(tmp_path / 'out/a.npy.png').size == (48, 40)
    seen = []
    monkeypatch.setattr('mae_mm.models.vit.ViT.forward', record(seen, monkeypatch))
    _, predict_image = build(load_config(str(config)), str(model[1]))
    with pytest.raises(StopIteration):
        predict_image(str(tmp_path / 'a.npy'))
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx([0, 1, 2, -2, -1, 0])


def test_classes_of_multiband_images(tmp_path: Path) -> None:
    """A folder of arrays and a GeoTIFF, of which red, green and blue are drawn: bands 3, 2 and 1, stretched."""
    config = ROOT / 'configs/demo/classification_multiband.py'
    model = config, save_model('mmpretrain', config, tmp_path / 'model.pth')
    img = ramp()
    (tmp_path / 'in').mkdir()
    np.save(tmp_path / 'in/six.npy', img)
    write_geotiff(tmp_path / 'six.tif', img)
    _, skipped = run(model, [tmp_path / 'in', tmp_path / 'six.tif'], tmp_path / 'out', top_k=2)
    assert skipped == []
    rows = read_table(tmp_path / 'out')
    assert len(rows) == 4 and [row['class'] for row in rows[:2]] == [row['class'] for row in rows[2:]]
    expected = picture_of(img[..., [2, 1, 0]])
    for name in ('in/six.npy.png', 'six.tif.png'):
        drawn = np.array(Image.open(tmp_path / 'out' / name))
        left = (drawn.shape[1] - expected.shape[1]) // 2  # captions are wider
        assert np.array_equal(drawn[:40, left:left + 48], expected)


@pytest.mark.parametrize('host, dtype, names, options', [
    ('mmpretrain', 'uint8', ['a.jpg', 'd.tif'], {}),
    ('mmpretrain', 'keep', ['a.jpg', 'b.npy', 'c.dcm', 'd.tif'], {}),
    ('mmseg', 'keep', ['a.jpg', 'b.npy', 'c.dcm', 'd.tif', 'e.svs'], dict(tiles=0))])
def test_which_files_of_a_folder_are_taken(
    host: str, dtype: str, names: list[str], options: dict, trained: dict, tmp_path: Path,
) -> None:
    """Those that the config's pipeline reads; here all are broken, and listed."""
    cfg = Config.fromfile(trained[host][0])
    cfg.test_dataloader.dataset.pipeline[0] = dict(type='mae_mm.LoadImage', dtype=dtype)
    cfg.dump(tmp_path / 'config.py')
    (tmp_path / 'in').mkdir()
    for name in ('a.jpg', 'b.npy', 'c.dcm', 'd.tif', 'e.svs', 'f.txt'):
        (tmp_path / 'in' / name).write_bytes(b'')
    _, skipped = run((tmp_path / 'config.py', trained[host][1]), [tmp_path / 'in'], tmp_path / 'out', **options)
    assert [Path(line.split(': ')[0]).name for line in skipped] == names


def test_arrays_of_any_channels_are_drawn(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    np.save(tmp_path / 'a.npy', bands)
    np.save(tmp_path / 'b.npy', bands[..., 0])
    assert np.array_equal(read_rgb(str(tmp_path / 'a.npy')), bands[..., :3])
    assert np.array_equal(read_rgb(str(tmp_path / 'b.npy')), bands[..., :1].repeat(3, -1))


# ---- each task ------------------------------------------------------------------------------------------------------

def test_classes_are_those_of_the_model(trained: dict, tmp_path: Path) -> None:
    """Against the model itself, on an image that goes through the config's pipeline by hand."""
    from mmengine.dataset import Compose, default_collate
    from mmpretrain.apis import get_model

    config, checkpoint = trained['mmpretrain']
    images = [write_image(tmp_path / f'in/{colour}.png', colour=colour) for colour in range(3)]
    written, _ = run((config, checkpoint), images, tmp_path / 'out', top_k=3)
    model = get_model(Config.fromfile(config), str(checkpoint), device='cpu')
    load = Compose(Config.fromfile(config).test_dataloader.dataset.pipeline)
    rows = read_table(tmp_path / 'out')
    for i, image in enumerate(images):
        with torch.no_grad():
            score = model.test_step(default_collate([load(dict(img_path=str(image)))]))[0].pred_score
        expected = [(str(image), str(rank), f'kind {label}', f'{score[label]:.4f}')
                    for rank, label in enumerate(score.argsort(descending=True)[:3].tolist(), 1)]
        assert [tuple(row.values()) for row in rows[3 * i:3 * i + 3]] == expected
    assert len(rows) == 9 and written == [
        *(tmp_path / f'out/{i}.png' for i in range(3)), tmp_path / 'out/predictions.csv']
    picture = np.array(Image.open(tmp_path / 'out/0.png'))
    left = (picture.shape[1] - 40) // 2
    assert np.array_equal(picture[:30, left:left + 40], np.array(Image.open(images[0])))
    assert picture[30:].min() < 100  # text


def test_detections_in_picture_and_table(trained: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet.visualization import DetLocalVisualizer

    drawn, draw = [], DetLocalVisualizer.add_datasample
    monkeypatch.setattr(DetLocalVisualizer, 'add_datasample', lambda self, name, image, sample, **options: (
        drawn.append((image.shape, sample.pred_instances)), draw(self, name, image, sample, **options)))
    image = write_image(tmp_path / 'in/a.png', (80, 60))
    run(trained['mmdet'], [image], tmp_path / 'out', score_thr=0.0, side=160)
    rows = read_table(tmp_path / 'out')
    assert 0 < len(rows) <= 5 and {row['class'] for row in rows} <= {'boat', 'ant', 'cup'}
    assert all(0 <= float(row['left']) <= float(row['right']) <= 80 and float(row['bottom']) <= 60 for row in rows)
    picture = np.array(Image.open(tmp_path / 'out/a.png'))
    (shape, found), = drawn
    assert picture.shape == shape == (120, 160, 3) and found.masks.shape[1:] == (120, 160)
    boxes = [[float(row[key]) for key in ('left', 'top', 'right', 'bottom')] for row in rows]
    torch.testing.assert_close(found.bboxes, 2 * torch.tensor(boxes), atol=0.11, rtol=0)
    assert (picture != np.array(Image.open(image).resize((160, 120), Image.Resampling.BICUBIC))).any()
    low = sorted(float(row['score']) for row in rows)[0]
    run(trained['mmdet'], [image], tmp_path / 'high', score_thr=low + 1e-3)
    assert 0 < len(rows) - len(read_table(tmp_path / 'high')) < 6
    (picture, *_), skipped = run(trained['mmdet'], [image], tmp_path / 'none', score_thr=1.1, side=160)
    resized = Image.open(image).resize((160, 120), Image.Resampling.BICUBIC)
    assert not skipped and np.array_equal(np.array(Image.open(picture)), np.array(resized))


def test_segmentation_beside_the_truth_of_the_data_set_alone(trained: dict, tmp_path: Path) -> None:
    config, checkpoint = trained['mmseg']
    data = Path(load_config(str(config)).test_dataloader.dataset.data_root)
    inside, label_map = data / 'images/validation/a.jpg', data / 'annotations/validation/a.png'
    for folder in (inside.parent, label_map.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_image(inside)
    Image.fromarray(np.full((30, 40), 3, np.uint8)).save(label_map)
    outside = write_image(tmp_path / 'in/b.jpg')
    run((config, checkpoint), [inside, outside], tmp_path / 'out', panel=str(tmp_path / 'panel.png'))
    rows = read_table(tmp_path / 'out')
    names = load_config(str(config)).test_dataloader.dataset.metainfo.classes
    for image in (inside, outside):
        shares = [float(row['share of the pixels']) for row in rows if row['image'] == str(image)]
        assert sum(shares) == pytest.approx(1, abs=1e-3) and shares == sorted(shares, reverse=True)
    assert {row['class'] for row in rows} <= set(names)
    pictures = {path.name: Image.open(path).size for path in (tmp_path / 'out').rglob('*.jpg')}
    assert pictures == {'a.jpg': (6 + 3 * 46, 24 + 36), 'b.jpg': (6 + 2 * 46, 24 + 36)}
    assert Image.open(tmp_path / 'panel.png').size == (144 + 12, 6 + 2 * (60 + 6))


def test_reconstructions_of_pretraining(make_mae: Callable[..., MAE], tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(f"""
model = dict(
    type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', **{ENCODER}), neck=dict(type='mae_mm.MAEDecoder', **{DECODER}))
val_dataloader = dict(dataset=dict(pipeline=[dict(type='mae_mm.LoadResizeCenterCrop', size=32)]))
""")
    torch.save(dict(state_dict=make_mae().state_dict()), tmp_path / 'mae.pth')
    image = write_image(tmp_path / 'in/a.png')
    written, _ = run((tmp_path / 'config.py', tmp_path / 'mae.pth'), [image], tmp_path / 'out')
    assert written == [tmp_path / 'out/a.png']  # no table
    cfg = load_config(str(tmp_path / 'config.py'))
    model = load_model(cfg, str(tmp_path / 'mae.pth'))
    expected = reconstruction_panel(model, load_images(cfg.val_dataloader.dataset.pipeline, [str(image)]))
    assert np.array_equal(np.array(Image.open(tmp_path / 'out/a.png')), expected)


def test_reconstructions_of_a_masked_conv_net(tmp_path: Path) -> None:
    cfg = load_config(str(ROOT / 'configs/demo/masked_conv.py'))
    init_default_scope('mmpretrain')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'conv.pth')
    image = write_image(tmp_path / 'in/a.png', (64, 64))
    run((ROOT / 'configs/demo/masked_conv.py', tmp_path / 'conv.pth'), [image], tmp_path / 'out')
    assert Image.open(tmp_path / 'out/a.png').size == (6 + 4 * (192 + 6), 24 + 192 + 6)


def test_configs_with_augmentation_are_refused(trained: dict, tmp_path: Path) -> None:
    config = tmp_path / 'tta.py'
    config.write_text(f"_base_ = '{ROOT}/configs/segmentation/upernet_vit_b_ade20k_ms.py'")
    with pytest.raises(ValueError, match=r'tta\.py uses TestTimeAug'):
        run((config, trained['mmseg'][1]), [write_image(tmp_path / 'in/a.png')], tmp_path / 'out')


def test_overlay_by_hand() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    assert overlay(image, np.array([[0, 1, 255]]), PALETTE).tolist() == [[[160, 40, 40], [40, 100, 40], [100] * 3]]


def test_truth_is_read_as_mmseg_reads_it(tmp_path: Path) -> None:
    class Dataset:
        img_suffix, seg_map_suffix = '_image.jpg', '_labels.png'
        data_prefix = dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'labels'))
        metainfo = dict(reduce_zero_label=True, label_map=None)

    (tmp_path / 'labels/a').mkdir(parents=True)
    Image.fromarray(np.array([[0, 1, 7, 255]], np.uint8)).save(tmp_path / 'labels/a/x_labels.png')
    assert true_labels(Dataset, str(tmp_path / 'images/a/x_image.jpg')).tolist() == [[255, 0, 6, 255]]
    assert true_labels(Dataset, str(tmp_path / 'images/a/y_image.jpg')) is None  # it has no label map
    assert true_labels(Dataset, str(tmp_path / 'elsewhere/a/x_image.jpg')) is None


# ---- files ----------------------------------------------------------------------------------------------------------

def test_originals_are_not_overwritten(trained: dict, tmp_path: Path) -> None:
    image = write_image(tmp_path / 'mine/a.png')
    before = image.read_bytes()
    for images, out in (([image], image.parent), ([image.parent], image.parent / 'drawn'), ([tmp_path], image.parent)):
        with pytest.raises(ValueError, match=rf'{out}/a\.png is one of the images, or in a folder of .*--out'):
            run(trained['mmdet'], images, out)
    with pytest.raises(ValueError, match=r'mine/a\.png is one of the images, .* --panel'):
        run(trained['mmdet'], [image], tmp_path / 'out', panel=str(image))
    assert image.read_bytes() == before and sorted(path.name for path in tmp_path.rglob('*')) == ['a.png', 'mine']


@pytest.mark.parametrize('host', HOSTS)
def test_broken_images_are_listed_and_equal_names_kept_apart(
    host: str, trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture,
) -> None:
    """Also: images beyond --num are counted."""
    write_image(tmp_path / 'one/a.jpg', exif=TURNED)
    write_image(tmp_path / 'two/a.jpg')
    write_image(tmp_path / 'two/d.png')
    (tmp_path / 'one/b.jpg').write_bytes(b'')
    (tmp_path / 'one/c.jpg').write_text('no picture')
    broken = [tmp_path / 'one' / name for name in ('b.jpg', 'c.jpg')]
    if host == 'mmdet':
        broken.append(write_image(tmp_path / 'one/e.png', (3000, 1)))  # cannot be resized
    with pytest.raises(SystemExit) as stop:
        run_tool('predict', *trained[host], tmp_path / 'one', tmp_path / 'two', *broken, '--out', tmp_path / 'out',
                 '--num', '1', '--panel', tmp_path / 'panel.png')
    assert stop.value.code == 1
    shown = capsys.readouterr()
    assert f'{tmp_path}/one: the first 1 of {len(broken) + 1} images; use --num N for more' in shown.out
    assert f'{tmp_path}/two: the first 1 of 2 images; use --num N for more' in shown.out
    assert f'no prediction for {len(broken)} of the images:' in shown.err and f'{broken[0]}: empty file' in shown.err
    assert all(f'{path}: ' in shown.err for path in broken)
    sizes = [Image.open(tmp_path / f'out/{folder}/a.jpg').size for folder in ('one', 'two')]
    assert sizes[0] != sizes[1]  # upright
    assert len(list((tmp_path / 'out').rglob('*.*'))) == 3 and (tmp_path / 'panel.png').exists()


def test_names_of_pictures() -> None:
    assert picture_names(['x/a.jpg', 'x/z/b.npy']) == [Path('a.jpg'), Path('z/b.npy.png')]
    assert picture_names(['x/a.jpg', 'y/z/a.jpg']) == [Path('x/a.jpg'), Path('y/z/a.jpg')]
    assert picture_names(['x/a.tif']) == [Path('a.tif.png')]  # not a map of classes


def test_no_image_at_all(trained: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'--num must be .*got.* 0'):
        run(trained['mmdet'], [write_image(tmp_path / 'in/a.png')], tmp_path / 'out', num=0)


@pytest.mark.parametrize('host', HOSTS)
def test_checkpoints_of_something_else(
    host: str, trained: dict, tmp_path: Path, make_mae: Callable[..., MAE], capsys: pytest.CaptureFixture,
) -> None:
    """Of pre-training, and with a weight missing: one message, and no picture."""
    image, content = write_image(tmp_path / 'in/a.png'), torch.load(trained[host][1], weights_only=True)
    del content['state_dict'][next(iter(content['state_dict']))]
    torch.save(content, tmp_path / 'others.pth')
    torch.save(dict(state_dict=make_mae().state_dict()), tmp_path / 'mae.pth')
    for name in ('others.pth', 'mae.pth'):
        with pytest.raises(ValueError, match=rf'{name}.*{trained[host][0].name}'):
            run((trained[host][0], tmp_path / name), [image], tmp_path / 'out')
        shown = capsys.readouterr()
        assert 'size mismatch' not in shown.out + shown.err and 'missing keys' not in shown.out + shown.err
    assert not (tmp_path / 'out').exists()


def test_a_detector_of_other_classes_is_explained(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture,
) -> None:
    image, content = write_image(tmp_path / 'in/a.png'), torch.load(trained['mmdet'][1], weights_only=True)
    state = content['state_dict']
    for key in [key for key in state if 'fc_cls' in key]:
        state[key] = torch.cat([state[key]] * 2)
    content['meta'] = copy.deepcopy(content['meta']) | dict(dataset_meta=dict(classes=[f'kind {i}' for i in range(7)]))
    torch.save(content, tmp_path / 'others.pth')
    message = r'others\.pth.*7 classes \(kind 0, .*3 \(boat, ant, cup\)'
    with pytest.raises(ValueError, match=message):
        run((trained['mmdet'][0], tmp_path / 'others.pth'), [image], tmp_path / 'out')
    with pytest.raises(SystemExit) as stop:
        run_tool('test', trained['mmdet'][0], tmp_path / 'others.pth', '--work-dir', tmp_path / 'work')
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)
