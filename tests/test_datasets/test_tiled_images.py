"""Tiles of large images: which ones there are, what is read of the file, and how runs go on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pixels import PYRAMIDS, blocks, destroy, ramp, write_geotiff, write_geotiff_pyramid
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS

from mae_mm.datasets import DecodeError, ImageFolder, TiledImages, parts, stored
from mae_mm.datasets.tiled_images import window_starts
from mae_mm.engine.loops.batches import ReadableSamples, build_loader
from mae_mm.stopping import UnreadableData

HEIGHT, WIDTH, SIDE = 500, 700, 128
TOPS, LEFTS = (0, 128, 256, 372), (0, 128, 256, 384, 512, 572)
WHOLE = [dict(type='mae_mm.LoadResizeCenterCrop', size=SIDE, dtype='keep', channels='unchanged')]
RGB = [dict(type='mae_mm.LoadResizeCenterCrop', size=SIDE)]
GEOTIFF = dict(tiled=True, blockxsize=64, blockysize=64, compress='deflate')


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one image of six bands and 16 bits; each value is another one."""
    root = tmp_path_factory.mktemp('scene')
    write_geotiff(root / 'a.tif', image(), **GEOTIFF)
    return root


def image() -> np.ndarray:
    return ramp(6, HEIGHT, WIDTH)


def views(dataset: TiledImages) -> list[np.ndarray]:
    return [dataset[i]['inputs'].permute(1, 2, 0).numpy() for i in range(len(dataset))]


def places(dataset: TiledImages) -> list[tuple[int, ...]]:
    """Top and left of each tile."""
    return [dataset.get_data_info(i)['part'][1:3] for i in range(len(dataset))]


@pytest.mark.parametrize('side, size, stride, expected', [
    (500, 128, 128, [0, 128, 256, 372]), (256, 128, 128, [0, 128]), (300, 128, 64, [0, 64, 128, 172]),
    (128, 128, 5, [0]), (100, 128, 128, [0]), (129, 128, 128, [0, 1])])
def test_windows_cover_a_side(side: int, size: int, stride: int, expected: list[int]) -> None:
    assert window_starts(side, size, stride) == expected
    assert {x for start in expected for x in range(start, start + size)} >= set(range(side))


def test_tiles_of_the_grid_are_those_parts_of_the_file(scene: Path) -> None:
    dataset = DATASETS.build(dict(type='mae_mm.TiledImages', data_root=str(scene), size=SIDE, pipeline=WHOLE))
    assert places(dataset) == [(top, left) for top in TOPS for left in LEFTS] and len(dataset) == 24
    for (top, left), view in zip(places(dataset), views(dataset), strict=True):
        np.testing.assert_array_equal(view, image()[top:top + SIDE, left:left + SIDE])
    assert set(dataset[3]) == {'inputs', 'img_path', 'sample_idx'}
    assert [*dataset.relative_names()] == ['a.tif']
    assert places(TiledImages(scene, SIDE, pipeline=WHOLE, indices=-2)) == [(372, 512), (372, 572)]


def test_stride_and_small_images(scene: Path, tmp_path: Path) -> None:
    assert places(TiledImages(scene, (500, 400), (1, 200))) == [(0, 0), (0, 200), (0, 300)]
    write_geotiff(tmp_path / 'a.tif', image()[:100])
    load = [dict(type='mae_mm.LoadImage')]
    assert [one['img'].shape for one in TiledImages(tmp_path, SIDE, pipeline=load)] == [(100, SIDE, 6)] * 6


@pytest.mark.parametrize('load', [
    dict(type='mae_mm.LoadRandomResizedCrop', size=32), dict(type='mae_mm.LoadRandomCrop', size=32, resize=64),
    dict(type='mae_mm.LoadResizeCenterCrop', size=32), dict(type='mae_mm.LoadImage')])
@pytest.mark.parametrize('options', [dict(), dict(dtype='uint16', bands=[5, 2])], ids=['8 bits', '16 bits'])
def test_transforms_see_a_tile_as_if_it_were_a_file(load: dict, options: dict, tmp_path: Path) -> None:
    """In 8 bits too, where whole files are decoded otherwise."""
    img = image() if options else blocks()
    for folder in ('in', 'cut'):
        (tmp_path / folder).mkdir()
    write_geotiff(tmp_path / 'in/a.tif', img, **GEOTIFF)
    for i, (top, left) in enumerate((top, left) for top in TOPS for left in LEFTS):
        write_geotiff(tmp_path / f'cut/{i:02}.tif', img[top:top + SIDE, left:left + SIDE])
    pipeline = [{**load, **options}]
    for cache in ('none', 'memory'):
        results = []
        for dataset in (TiledImages(tmp_path / 'in', SIDE, pipeline=pipeline, cache=cache),
                        ImageFolder(tmp_path / 'cut', pipeline)):
            np.random.seed(0)
            results.append([torch.as_tensor(one.get('inputs', one.get('img'))) for one in dataset])
        assert len(results[0]) == 24 and all(map(torch.equal, *results))


@pytest.mark.parametrize('kind', PYRAMIDS)
@pytest.mark.parametrize('downsample', [1, 2, 4])
def test_levels_of_pyramids(kind: str, downsample: int, tmp_path: Path) -> None:
    extension, write = PYRAMIDS[kind]
    write(tmp_path / f'a.{extension}', blocks())
    dataset = TiledImages(tmp_path, SIDE, downsample=downsample, pipeline=[dict(type='mae_mm.LoadImage')])
    level = blocks()[::downsample, ::downsample]
    assert len(dataset) == {1: 24, 2: 6, 4: 2}[downsample]
    for i, (top, left) in enumerate(places(dataset)):
        np.testing.assert_array_equal(dataset[i]['img'], level[top:top + SIDE, left:left + SIDE])


def test_a_level_that_is_not_there(tmp_path: Path) -> None:
    write_geotiff_pyramid(tmp_path / 'a.tif', blocks())
    message = r'a\.tif: no level of its pyramid is 3 times smaller \(downsample\): 1, 2, 4'
    with pytest.raises(FileNotFoundError, match=message):
        TiledImages(tmp_path, SIDE, downsample=3)
    write_geotiff(tmp_path / 'b.tif', blocks())
    dataset = TiledImages(tmp_path, SIDE, downsample=2, pipeline=RGB)
    with pytest.raises(DecodeError, match=r'b\.tif: no level of its pyramid is 2 times smaller'):
        dataset[len(dataset) - 1]


def test_no_more_of_a_file_is_read_than_the_tile(tmp_path: Path) -> None:
    """The other blocks are destroyed: this tile is read, the others are bad images, which are named and counted."""
    write_geotiff(tmp_path / 'a.tif', image(), **GEOTIFF)
    destroy(tmp_path / 'a.tif', (slice(2, 4), slice(4, 6)))
    dataset = TiledImages(tmp_path, SIDE, pipeline=WHOLE)
    np.testing.assert_array_equal(views(dataset.get_subset([8]))[0], image()[128:256, 256:384])
    with pytest.raises(DecodeError, match=r'cannot read .*a\.tif\[128:256, 384:512\]: '):
        dataset[9]
    samples = ReadableSamples(dataset)
    assert samples[9]['sample_idx'] == 8 and samples.num_broken == 23
    assert samples.broken_files() == [str(tmp_path / 'a.tif')] * 23


# ---- background -----------------------------------------------------------------------------------------------------

def with_background(value: int) -> np.ndarray:
    """An image of which the left 256 pixels are background, and the upper half of the next 128."""
    img = blocks()
    img[:, :256] = value
    img[:250, 256:384] = value
    return img


@pytest.mark.parametrize('kind', PYRAMIDS)
def test_background_is_found_in_the_smallest_copy(kind: str, tmp_path: Path) -> None:
    """The full size is destroyed where that can be told, and the same tiles are found."""
    extension, write = PYRAMIDS[kind]
    write(path := tmp_path / f'a.{extension}', with_background(240))
    for max_background, tops in ((0.2, (256, 372)), (0.5, (256, 372)), (0.97, (128, 256, 372))):
        dataset = TiledImages(tmp_path, SIDE, background=(230, 255), max_background=max_background, pipeline=RGB)
        expected = [(top, left) for top in TOPS for left in LEFTS if left >= 384 or (left == 256 and top in tops)]
        assert places(dataset) == expected
    if kind not in ('slide', 'ome-tiff'):
        destroy(path)
        assert places(TiledImages(tmp_path, SIDE, background=(230, 255), max_background=0.97)) == expected


def test_without_a_pyramid_the_middle_of_each_tile_decides(tmp_path: Path) -> None:
    img = with_background(0)
    write_geotiff(tmp_path / 'a.tif', img, **GEOTIFF)
    found = [(top, left) for top in TOPS for left in LEFTS
             if img[top + 64:top + 80, left + 64:left + 80].all(-1).mean() >= 0.5]
    assert 0 < len(found) < 24
    assert places(TiledImages(tmp_path, SIDE, background=(0, 0))) == found


@pytest.mark.parametrize('load', [*WHOLE, *RGB], ids=['keep', '8 bits'])
@pytest.mark.parametrize('write', [write_geotiff, write_geotiff_pyramid])
def test_tiles_without_data_are_left_out(load: dict, write: object, tmp_path: Path) -> None:
    write(tmp_path / 'a.tif', with_background(255), nodata=255)
    dataset = TiledImages(tmp_path, SIDE, pipeline=[load])
    assert {left for _, left in places(dataset)} == {256, 384, 512, 572} and (0, 256) not in places(dataset)
    assert len(views(dataset)) == len(dataset) == 14


def test_files_that_are_all_background(tmp_path: Path) -> None:
    for name, value in dict(a=0, b=50).items():
        write_geotiff(tmp_path / f'{name}.tif', np.full((HEIGHT, WIDTH, 1), value, np.uint8))
    dataset = TiledImages(tmp_path, SIDE, background=(0, 9), per_file=3)
    assert {dataset.get_data_info(i)['img_path'][-5:] for i in range(3)} == {'b.tif'} and len(dataset) == 3
    with pytest.raises(FileNotFoundError, match=r'no tile in 2 files; 48 are background \(background=\(0, 99\)'):
        TiledImages(tmp_path, SIDE, background=(0, 99))


# ---- random windows, resuming, processes ----------------------------------------------------------------------------

def test_random_windows_are_others_in_each_epoch_and_reach_everything(tmp_path: Path) -> None:
    img = with_background(240)
    write_geotiff_pyramid(tmp_path / 'a.tif', img)
    dataset = TiledImages(tmp_path, SIDE, background=(230, 255), per_file=50, pipeline=RGB)
    assert len(dataset) == 50
    epochs = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        epochs.append(places(dataset))
    assert epochs[0] == epochs[1] != epochs[2]
    tops, lefts = map(set, zip(*epochs[0], *epochs[2], strict=True))
    assert min(tops) >= 0 and max(tops) == HEIGHT - SIDE and max(lefts) == WIDTH - SIDE and len(tops) > 20
    assert 256 - SIDE // 2 <= min(lefts) < 256  # half a stride beyond the tiles that are kept
    np.random.seed(3)
    top, left = dataset.get_data_info(7)['part'][1:3]
    np.random.seed(3)
    np.testing.assert_array_equal(
        dataset[7]['inputs'].permute(1, 2, 0).numpy(), img[top:top + SIDE, left:left + SIDE])


@pytest.mark.parametrize('per_file', [None, 12])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_epoch_has_the_same_tiles(per_file: int | None, workers: int, scene: Path) -> None:
    load = dict(type='mae_mm.LoadRandomResizedCrop', size=16, dtype='uint16', bands=6)
    dataset = TiledImages(scene, SIDE, per_file=per_file, pipeline=[load])
    config = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True), num_workers=workers,
                  collate_fn=dict(type='default_collate'))

    def batches(epoch: int, start: int) -> list[torch.Tensor]:
        loader = build_loader(config, dataset, seed=5)
        loader.batch_sampler.go_to(epoch, start)
        return [batch['inputs'] for batch in loader]

    whole = batches(1, 0)
    assert len(whole) == len(dataset) // 2 and all(map(torch.equal, whole[4:], batches(1, 4)))
    assert not torch.equal(torch.stack(whole), torch.stack(batches(2, 0)))


def test_processes_share_the_work_of_finding_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        write_geotiff(tmp_path / f'{i}.tif', image()[:128 * (i + 1), :128])
    alone, sent = places(TiledImages(tmp_path, SIDE)), []

    def gather(found: list) -> list:
        if len(sent) < 2:
            sent.append(found)
            raise InterruptedError
        return sent

    monkeypatch.setattr(parts, 'all_gather_object', gather)
    for rank in range(2):
        monkeypatch.setattr(parts, 'get_dist_info', lambda rank=rank: (rank, 2))
        with pytest.raises(InterruptedError):
            TiledImages(tmp_path, SIDE)
    assert [len(part) for part in sent] == [3, 2] and places(TiledImages(tmp_path, SIDE)) == alone


# ---- mistakes -------------------------------------------------------------------------------------------------------

def test_a_file_that_cannot_be_read_is_one_bad_image(scene: Path, tmp_path: Path) -> None:
    (tmp_path / 'a.tif').symlink_to(scene / 'a.tif')
    (tmp_path / 'b.tif').write_bytes((scene / 'a.tif').read_bytes()[:-100_000])
    write_geotiff(tmp_path / 'c.tif', blocks())  # three bands
    dataset = TiledImages(tmp_path, SIDE, pipeline=[dict(WHOLE[0], bands=6)])
    assert len(dataset) == 26
    samples = ReadableSamples(dataset)
    assert samples[24]['sample_idx'] == 0 and samples.num_broken == 2
    assert samples.broken_files() == [str(tmp_path / 'b.tif'), str(tmp_path / 'c.tif')]
    (tmp_path / 'a.tif').unlink()
    with pytest.raises(FileNotFoundError, match=r'2 files cannot be read: .*b\.tif'):
        TiledImages(tmp_path, SIDE, pipeline=[dict(WHOLE[0], bands=6)])


def test_a_file_that_became_smaller(scene: Path, tmp_path: Path) -> None:
    write_geotiff(tmp_path / 'a.tif', image())
    dataset = TiledImages(tmp_path, SIDE, pipeline=WHOLE)
    write_geotiff(tmp_path / 'a.tif', image()[:300])
    with pytest.raises(DecodeError, match='it has 300 x 700 pixels now: it was changed'):
        dataset[23]
    with pytest.raises(UnreadableData, match='cannot be read'):
        ReadableSamples(dataset, replace=False)[23]


def test_16_bits_are_not_cut_to_8(scene: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.tif: pixels of uint16, and dtype='uint8'; dtype='keep' takes"):
        TiledImages(scene, SIDE, pipeline=RGB)


def test_the_limit_of_size_names_the_way_out(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, 'MAX_PIXELS', SIDE**2)
    with pytest.raises(DecodeError, match=r'500 x 700 pixels .*mae_mm\.TiledImages'):
        ImageFolder(scene, WHOLE)[0]
    assert TiledImages(scene, SIDE, pipeline=WHOLE)[0]['inputs'].shape == (6, SIDE, SIDE)
    write_geotiff(Path(scene) / 'b.tif', blocks())
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', SIDE**2)
    try:
        with pytest.raises(DecodeError, match=r'exceeds limit .*mae_mm\.TiledImages'):
            ImageFolder(scene, RGB, names=['b.tif'])[0]
    finally:
        (Path(scene) / 'b.tif').unlink()


@pytest.mark.parametrize('options, message', [
    (dict(crop_sizes=[(32, 32), (16, 64)]), 'crop_sizes=.* tiles have one shape'),
    (dict(size=0), 'size=0 must be pixels'), (dict(stride=(1, 2, 3)), r'stride=\(1, 2, 3\) must be'),
    (dict(downsample=0.5), 'downsample=0.5 must be at least 1'), (dict(max_background=1), 'max_background=1 in'),
    (dict(per_file=0), 'per_file=0'), (dict(background=(9, 0)), r'background=\(9, 0\)'),
    (dict(per_file=1, cache='memory'), "cache='memory' would repeat")])
def test_options_that_mean_nothing_are_refused(options: dict, message: str, scene: Path) -> None:
    with pytest.raises(ValueError, match=message):
        TiledImages(scene, **options)


def test_samplers_share_the_tiles(scene: Path) -> None:
    dataset = TiledImages(scene, SIDE, pipeline=WHOLE)
    assert sorted(DefaultSampler(dataset, shuffle=True, seed=0)) == list(range(24))
