"""Sliding segmentation: equal to the model where it has to be, without seams, with the georeference of the image."""

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from helpers import ROOT
from helpers.pixels import blocks, destroy, ramp, write_geotiff
from helpers.tools import run_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from rasterio.transform import from_origin

from mae_mm.datasets.pixels import Reading
from mae_mm.engine.runner import load_config
from mae_mm.visualization import large
from mae_mm.visualization.large import NODATA, Classes, Windows, segment
from mae_mm.visualization.predict import classes_of, model_of, predict

pytestmark = pytest.mark.integration

HEIGHT, WIDTH, SIDE = 500, 700, 128
PLACE = dict(crs='EPSG:32633', transform=from_origin(399960, 5500020, 10, 10))
TILED = dict(tiled=True, blockxsize=64, blockysize=64, compress='deflate')
MEAN, STD = [100.0] * 6, [50.0] * 6


class Pointwise(torch.nn.Module):
    """Class = the band with the highest value, or (mean of the window) that of the brightest; sees one pixel."""

    out_channels = 3

    def __init__(self, local: bool = True) -> None:
        super().__init__()
        self.local, self.seen = local, []

    def data_preprocessor(self, data: dict) -> dict:
        return {**data, 'inputs': torch.stack(data['inputs']).float()}

    def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
        self.seen.append(tuple(inputs.shape))
        assert all(meta['img_shape'] == tuple(inputs.shape[2:]) for meta in metas)
        return inputs if self.local else inputs.mean((2, 3), keepdim=True).expand_as(inputs)


def run(model: torch.nn.Module, path: Path, out: Path, size: int = SIDE, overlap: float = 0.25, swap: bool = False,
        batch_size: int = 4, side: int = 100) -> tuple[np.ndarray, ...]:
    """The classes in the file, the preview's pixels and classes, and the counts."""
    img = Reading('keep').open(str(path), 'unchanged', str(path))
    classes = Classes(['red', 'green', 'blue'], np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8))
    small = segment(model, img, swap, Windows(size, overlap, batch_size), classes, out, side)
    with rasterio.open(out) as file:
        return file.read(1), *small


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_geotiff(tmp_path / 'in.tif', blocks(), **TILED, **PLACE)
    return tmp_path / 'in.tif'


@pytest.mark.parametrize('size, overlap', [(128, 0.25), (128, 0.0), (96, 0.6), (1000, 0.25)])
def test_a_model_that_sees_one_pixel_gives_the_same_with_any_windows(size: int, overlap: float, photo: Path) -> None:
    labels, pixels, small, counts = run(model := Pointwise(), photo, photo.with_name('out.tif'), size, overlap)
    np.testing.assert_array_equal(labels, blocks().argmax(-1))
    np.testing.assert_array_equal(pixels, blocks()[::7, ::7])
    np.testing.assert_array_equal(small, labels[::7, ::7])
    np.testing.assert_array_equal(counts, np.bincount(labels.ravel()))
    assert {shape[2:] for shape in model.seen} == {(min(size, HEIGHT), min(size, WIDTH))}


def test_wide_images_are_done_in_columns(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less memory, and the same map."""
    whole = [run(Pointwise(local), photo, photo.with_name('out.tif')) for local in (True, False)]
    monkeypatch.setattr(large, 'STRIP', 1)
    for expected, local in zip(whole, (True, False), strict=True):
        for one, other in zip(expected, run(Pointwise(local), photo, photo.with_name('out.tif')), strict=True):
            np.testing.assert_array_equal(one, other)


def test_windows_that_do_not_overlap_are_those_of_the_model(photo: Path) -> None:
    labels, *_ = run(Pointwise(local=False), photo, photo.with_name('out.tif'), 100, 0)
    means = blocks().reshape(5, 100, 7, 100, 3).mean((1, 3))
    np.testing.assert_array_equal(labels, means.argmax(-1).repeat(100, 0).repeat(100, 1))


def test_logits_are_averaged_by_weights_that_fall_to_the_edges(tmp_path: Path) -> None:
    """By hand: two windows of 8 pixels that share 4; the left one says class 0 with 3, the right one class 1 with 1."""
    img = np.zeros((8, 12, 3), np.uint8)
    img[:, :8, 0], img[:, 8:, 1] = 3, 2
    write_geotiff(tmp_path / 'in.tif', img)

    class Model(Pointwise):
        def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
            logits = torch.zeros(inputs.shape)
            for one, window in zip(logits, inputs, strict=True):
                one[0 if window[0, 0, 0] == 3 and window[1].max() == 0 else 1] = 3 if window[1].max() == 0 else 1
            return logits

    labels, *_ = run(Model(), tmp_path / 'in.tif', tmp_path / 'out.tif', 8, 0.5)
    # weights of the left window in columns 4 … 7: 4 3 2 1, of the right one: 1 2 3 4; 3 x 2 > 3 and 3 x 1 < 4
    assert labels.tolist() == [[0] * 7 + [1] * 5] * 8


def test_there_is_no_seam(tmp_path: Path) -> None:
    """Every other window shifts its logits: the border of two classes is smooth, without overlap it jumps."""
    img = np.linspace(0, 100, HEIGHT)[:, None, None] * np.array([1, 0, 0]) + np.array([0, 50, 0])
    write_geotiff(tmp_path / 'in.tif', img.repeat(WIDTH, 1).astype(np.float32))

    class Shifted(Pointwise):
        def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
            self.seen += range(len(inputs))
            shift = torch.tensor([4.0 * (len(self.seen) % 2)]).view(1, 1, 1, 1)
            return inputs + shift * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)

    jumps = {}
    for overlap in (0.0, 0.5):
        labels, *_ = run(Shifted(), tmp_path / 'in.tif', tmp_path / 'out.tif', overlap=overlap, batch_size=1)
        border = (labels == 1).sum(0)  # rows above the border, for each column
        jumps[overlap] = np.abs(np.diff(border)).max()
    assert jumps[0.0] >= 15 and jumps[0.5] <= 3


def test_place_on_earth_colours_and_what_has_no_data(tmp_path: Path) -> None:
    img = blocks()
    img[:200, :300] = 255
    img[400:, 600:, 0] = 255  # the other bands have data
    write_geotiff(tmp_path / 'in.tif', img, nodata=255, **TILED, **PLACE)
    model = Pointwise()
    labels, pixels, small, counts = run(model, tmp_path / 'in.tif', tmp_path / 'out.tif', 100, 0, batch_size=1)
    none = np.zeros((HEIGHT, WIDTH), bool)
    none[:200, :300] = True
    assert np.array_equal(labels == NODATA, none) and np.isnan(pixels).any() and (small == NODATA).any()
    assert len(model.seen) == 35 - 6 and counts.sum() == (~none).sum()  # windows without data are not computed
    with rasterio.open(tmp_path / 'in.tif') as source, rasterio.open(tmp_path / 'out.tif') as out:
        assert (out.crs, out.transform, out.shape) == (source.crs, source.transform, source.shape)
        assert out.bounds == source.bounds and out.crs.to_epsg() == 32633 and out.nodata == NODATA
        assert out.colormap(1)[1] == (0, 200, 0, 255) and json.loads(out.tags()['classes']) == ['red', 'green', 'blue']
        assert out.profile['tiled'] and out.profile['compress'] == 'deflate' and out.dtypes == ('uint8',)
        assert out.overviews(1) == [2, 4] and out.count == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.tif', 'out.tif']


def test_one_logit_is_a_threshold(tmp_path: Path) -> None:
    """mmseg's heads with out_channels=1."""
    class Binary(Pointwise):
        out_channels = 1
        decode_head = type('', (), dict(threshold=0.3))

        def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
            return (inputs[:, :1] - 100) / 50

    write_geotiff(tmp_path / 'in.tif', blocks())
    labels, *_ = run(Binary(), tmp_path / 'in.tif', tmp_path / 'out.tif')
    probability = 1 / (1 + np.exp(-(blocks()[..., 0].astype(float) - 100) / 50))
    np.testing.assert_array_equal(labels, probability > 0.3)


def test_colours_in_the_order_that_the_model_takes(photo: Path) -> None:
    labels, *_ = run(Pointwise(), photo, photo.with_name('out.tif'), swap=True)
    np.testing.assert_array_equal(labels, blocks()[..., ::-1].argmax(-1))


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_old_map(error: type[BaseException], photo: Path) -> None:
    class Stops(Pointwise):
        def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
            if len(self.seen) == 5:
                raise error
            return super().encode_decode(inputs, metas)

    (out := photo.with_name('out.tif')).write_text('old')
    with pytest.raises(error):
        run(Stops(), photo, out)
    assert out.read_text() == 'old' and sorted(path.name for path in photo.parent.iterdir()) == ['in.tif', 'out.tif']


def test_a_kill_leaves_nothing_under_the_final_name(photo: Path) -> None:
    """And the next run overwrites what it left."""
    class Killed(Pointwise):
        def encode_decode(self, inputs: torch.Tensor, metas: list[dict]) -> torch.Tensor:
            if len(self.seen) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_decode(inputs, metas)

    out = photo.with_name('out.tif')
    process = multiprocessing.get_context('fork').Process(target=run, args=(Killed(), photo, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in photo.parent.iterdir()) == ['in.tif', 'out.tif.partial']
    np.testing.assert_array_equal(run(Pointwise(), photo, out)[0], blocks().argmax(-1))
    assert sorted(path.name for path in photo.parent.iterdir()) == ['in.tif', 'out.tif']


# ---- the tool -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a small, untrained segmentor of six bands, and of one of photographs."""
    from mmseg.registry import MODELS

    folder, found = tmp_path_factory.mktemp('trained'), {}
    for name in ('segmentation_multiband', 'segmentation'):
        cfg = Config.fromfile(ROOT / f'configs/demo/{name}.py')
        cfg.model.backbone.update(arch=dict(embed_dim=32, depth=4, num_heads=2), out_indices=(0, 1, 2, 3))
        cfg.model.neck.embed_dim = 32
        for head in ('decode_head', 'auxiliary_head'):
            cfg.model[head].update(in_channels=32 if 'aux' in head else [32] * 4, channels=8)
        cfg.dump(folder / f'{name}.py')
        cfg = load_config(str(folder / f'{name}.py'))
        init_default_scope('mmseg')
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
        found[name] = folder / f'{name}.py', folder / f'{name}.pth'
    return found


def write_scene(path: Path, height: int = 150, width: int = 200) -> np.ndarray:
    img = (19000 + ramp(6, height, width) % 2000).astype(np.uint16)
    write_geotiff(path, img, **TILED, **PLACE)
    return img


def test_one_window_is_the_whole_image(trained: dict, tmp_path: Path) -> None:
    """Of a real segmentor, of six bands of 16 bits: the map is that of mmseg's own test."""
    img = write_scene(tmp_path / 'a.tif')
    files, skipped = predict(*map(str, trained['segmentation_multiband']), [str(tmp_path / 'a.tif')],
                             str(tmp_path / 'out'), tiles=512)
    assert not skipped and files == [tmp_path / 'out' / name for name in ('a.tif', 'a.tif.png', 'predictions.csv')]
    cfg = load_config(str(trained['segmentation_multiband'][0]))
    init_default_scope('mmseg')
    model, dataset = model_of(cfg, 'cpu')
    classes = classes_of(model, dataset, str(trained['segmentation_multiband'][1]), cfg)
    from mmseg.structures import SegDataSample
    sample = SegDataSample(metainfo=dict(img_shape=img.shape[:2], ori_shape=img.shape[:2]))
    with torch.no_grad():
        out, = model.test_step(dict(inputs=[torch.from_numpy(img.transpose(2, 0, 1))], data_samples=[sample]))
    expected = out.pred_sem_seg.data[0].numpy()
    with rasterio.open(files[0]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.transform == PLACE['transform'] and json.loads(file.tags()['classes']) == list(classes.names)
    with open(files[2], newline='') as file:
        shares = {row['class']: float(row['share of the pixels']) for row in csv.DictReader(file)}
    assert len(np.unique(expected)) > 1 and shares == {
        classes.names[i]: pytest.approx((expected == i).mean(), abs=1e-4) for i in np.unique(expected)}
    assert Image.open(files[1]).size == (6 + 2 * 206, 24 + 156)


def test_photographs_too(trained: dict, tmp_path: Path) -> None:
    """An RGB model sees BGR as in its own test; images of other pixels are listed."""
    write_geotiff(tmp_path / 'a.tif', img := blocks(64, 128), **PLACE)
    write_scene(tmp_path / 'b.tif')
    config, checkpoint = map(str, trained['segmentation'])
    files, skipped = predict(config, checkpoint, [str(tmp_path / name) for name in ('a.tif', 'b.tif')],
                             str(tmp_path / 'out'), tiles=0, overlap=0)  # 64 pixels, of data_preprocessor.size
    assert len(skipped) == 1 and 'b.tif: pixels of uint16, and' in skipped[0]
    init_default_scope('mmseg')
    model, dataset = model_of(cfg := load_config(config), 'cpu')
    classes_of(model, dataset, checkpoint, cfg)
    from mmseg.structures import SegDataSample
    halves = [torch.from_numpy(img[:, left:left + 64, ::-1].transpose(2, 0, 1).copy()) for left in (0, 64)]
    samples = [SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64))) for _ in halves]
    with torch.no_grad():
        out = model.test_step(dict(inputs=halves, data_samples=samples))
    with rasterio.open(files[0]) as file:
        np.testing.assert_array_equal(
            file.read(1), np.concatenate([one.pred_sem_seg.data[0].numpy() for one in out], 1))


def test_multiband_images_without_tiles(trained: dict, tmp_path: Path) -> None:
    """The picture of a whole image, and a broken file is listed."""
    np.save(tmp_path / 'a.npy', 19000 + ramp(6, 40, 56) % 2000)
    (tmp_path / 'b.npy').write_bytes(b'')
    files, skipped = predict(*map(str, trained['segmentation_multiband']), [
        str(tmp_path / 'a.npy'), str(tmp_path / 'b.npy')], str(tmp_path / 'out'))
    assert [path.name for path in files] == ['a.npy.png', 'predictions.csv'] and 'b.npy' in skipped[0]
    assert Image.open(files[0]).size == (6 + 2 * 62, 24 + 46)


def test_a_broken_block_is_no_map(trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_scene(tmp_path / 'a.tif')
    destroy(tmp_path / 'a.tif', (slice(1), slice(None)))  # all rows of blocks but the first
    with pytest.raises(SystemExit) as stop:
        run_tool('predict', *trained['segmentation_multiband'], tmp_path / 'a.tif', '--out', tmp_path / 'out',
                 '--tiles', '64')
    assert stop.value.code == 1 and 'cannot read' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('config, options, message', [
    ('classification', dict(tiles=64), '--tiles is for segmentation'),
    ('segmentation', dict(tiles=-1), '--tiles -1 '), ('segmentation', dict(tiles=0, overlap=1.0), '--overlap 1.0')])
def test_mistakes(config: str, options: dict, message: str, tmp_path: Path) -> None:
    write_scene(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=message):
        predict(str(ROOT / f'configs/demo/{config}.py'), 'none.pth', [str(tmp_path / 'a.tif')],
                str(tmp_path / 'out'), **options)


def test_maps_do_not_overwrite_images(tmp_path: Path) -> None:
    write_scene(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r'a\.tif is one of the images'):
        predict(str(ROOT / 'configs/demo/segmentation.py'), 'none.pth', [str(tmp_path / 'a.tif')], str(tmp_path),
                tiles=0)
