"""The demo data: the same for a seed, honest about its pixels, and in layouts that agree with one another."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT

from mae_mm.demo_data.annotations import mask_to_box, mask_to_polygons, mask_to_rle
from mae_mm.demo_data.categories import CATEGORIES, PIXEL_CLASSES
from mae_mm.demo_data.composition import DOMINANCE, SIZES, has_hole
from mae_mm.demo_data.figures import Window, draw_figure
from mae_mm.demo_data.generate import FOLDERS, make_demo_data, split_counts
from mae_mm.demo_data.layouts import VAL_ID_OFFSET, SceneKey, image_paths
from mae_mm.demo_data.photos import PHOTOS, load_region, random_tint, recolour
from mae_mm.demo_data.preview import write_preview
from mae_mm.demo_data.scenes import Instance, Scene, make_scene, rim
from mae_mm.demo_data.shapes import SHAPES, draw_shape
from mae_mm.demo_data.textures import TEXTURES, draw_texture

pytestmark = pytest.mark.integration

TOOL = ROOT / 'tools' / 'make_demo_data.py'
SCALE = 0.008  # 2 train scenes and 1 val scene of each category
COUNTS = dict(train=24, val=12)


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_data(tmp_path_factory.mktemp('demo') / 'out', SCALE)


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(0, 'train', index) for index in range(COUNTS['train'])]


def keys(split: str) -> list[SceneKey]:
    return [SceneKey(0, split, index) for index in range(COUNTS[split])]


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- one scene ----


def test_a_scene_depends_on_seed_split_and_index_only(scenes: list[Scene]) -> None:
    again = make_scene(0, 'train', 5)
    assert np.array_equal(again.image, scenes[5].image) and np.array_equal(again.pixel_labels, scenes[5].pixel_labels)
    for other in (make_scene(1, 'train', 5), make_scene(0, 'val', 5), make_scene(0, 'train', 17)):
        assert other.label == 5 and other.image.tobytes() != again.image.tobytes()
        assert other.pixel_labels.tobytes() != again.pixel_labels.tobytes()


def test_the_labelled_object_is_the_largest_and_shows_as_one_piece_without_holes(scenes: list[Scene]) -> None:
    for scene in scenes:
        areas = [instance.mask.sum() for instance in scene.instances]
        largest = areas.pop(scene.dominant)
        assert scene.instances[scene.dominant].category == scene.label
        assert all(largest >= DOMINANCE * area for area in areas) and largest > 0.08 * scene.pixel_labels.size
        assert not any(has_hole(instance.mask) for instance in scene.instances if not instance.is_crowd)
        assert not np.any(np.sum([instance.mask for instance in scene.instances], axis=0) > 1)
        assert all(SIZES[0] <= side <= SIZES[1] for side in scene.size)
    assert 0 < sum(instance.is_crowd for scene in scenes for instance in scene.instances) < len(scenes)
    assert len({len(scene.instances) for scene in scenes}) >= 3


def test_polygons_describe_the_visible_masks(scenes: list[Scene]) -> None:
    coder = pytest.importorskip('pycocotools.mask')
    overlaps = []
    for scene in scenes:
        for mask in (instance.mask for instance in scene.instances if not instance.is_crowd):
            polygons = coder.merge(coder.frPyObjects(mask_to_polygons(mask), *mask.shape))
            drawn = coder.decode(polygons).astype(bool)
            overlaps.append((drawn & mask).sum() / (drawn | mask).sum())
    assert np.mean(overlaps) > 0.95 and min(overlaps) > 0.75


def test_every_pixel_but_a_thin_rim_has_the_label_of_what_shows(scenes: list[Scene]) -> None:
    for scene in scenes:
        labels, unlabelled = scene.pixel_labels, scene.pixel_labels == 0
        covered = np.any([instance.mask for instance in scene.instances], axis=0)
        for instance in scene.instances:
            assert set(np.unique(labels[instance.mask])) <= {0, instance.category + 1}
        assert labels[~covered & ~unlabelled].min() > len(CATEGORIES) and labels.max() <= len(PIXEL_CLASSES)
        assert 0 < unlabelled.mean() < 0.15
        thick = cv2.erode(unlabelled.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
        assert thick.mean() < 0.002


def test_rim_is_one_pixel_wide() -> None:
    regions = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 2]])
    assert rim(regions).astype(int).tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1]]


# ---- masks as COCO writes them ----


def test_masks_of_a_hand_made_example() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    assert mask_to_box(mask) == [1, 1, 3, 2]
    # columns 0 and 4 are empty; columns 1, 2, 3 read 0110
    assert mask_to_rle(mask) == dict(counts=[5, 2, 2, 2, 2, 2, 5], size=[4, 5])
    assert mask_to_rle(~mask)['counts'] == [0, 5, 2, 2, 2, 2, 2, 5]
    (polygon,) = mask_to_polygons(mask)
    corners = np.reshape(polygon, (-1, 2))
    assert np.abs(corners.min(0) - (1, 1)).max() < 0.2 and np.abs(corners.max(0) - (4, 3)).max() < 0.2
    mask[3, 4] = True
    assert len(mask_to_polygons(mask | mask[::-1])) == len(mask_to_polygons(mask)), 'corners that touch are one part'


def test_a_hole_is_noticed() -> None:
    mask = np.ones((9, 9), bool)
    assert not has_hole(mask)
    mask[4, 4] = False
    assert has_hole(mask)
    mask[4, 4:] = False
    assert not has_hole(mask)


# ---- shapes, textures, photographs ----


@pytest.mark.parametrize('family', SHAPES)
def test_shapes_have_area_one_around_the_origin_and_vary(family: str) -> None:
    first, second = (draw_shape(family, np.random.default_rng(seed)).outline for seed in (0, 1))
    for outline in (first, second):
        moments = cv2.moments(np.float32(outline))
        assert abs(moments['m00'] - 1) < 1e-3 and abs(moments['m10']) < 1e-3 and abs(moments['m01']) < 1e-3
    assert first.shape != second.shape or not np.allclose(first, second)


@pytest.mark.parametrize('family', SHAPES)
def test_a_figure_covers_its_area_and_knows_where_its_surface_lies(family: str) -> None:
    figure = draw_figure(family, 40.0, np.array([80.0, 70.0]), np.random.default_rng(3))
    window = Window(5, 3, 150, 140)
    share = figure.coverage(window)
    assert abs(share.sum() - 40**2) < 0.04 * 40**2
    x, y = figure.from_pixels(window)
    centroid = np.array([(share * x).sum(), (share * y).sum()]) / share.sum()
    assert np.abs(centroid).max() < 0.01, 'the shape has its centroid at the origin'
    points = figure.to_pixels(np.stack([x.ravel(), y.ravel()], axis=-1).astype(float))
    column, row = np.meshgrid(np.arange(5, 155) + 0.5, np.arange(3, 143) + 0.5)
    assert np.abs(points - np.stack([column.ravel(), row.ravel()], axis=-1)).max() < 1e-2
    assert abs(figure.zoomed(2).mask((280, 320)).sum() - 4 * 40**2) < 0.05 * 4 * 40**2


@pytest.mark.parametrize('family', TEXTURES)
def test_textures_show_both_materials_with_soft_edges(family: str) -> None:
    x, y = np.meshgrid(*[np.linspace(-0.5, 0.5, 80, dtype=np.float32)] * 2)
    for seed in range(8):
        share = draw_texture(family, x, y, 1 / 80, np.random.default_rng(seed))
        assert share.dtype == np.float32 and share.min() >= 0 and share.max() <= 1
        assert 0.1 < share.mean() < 0.9
        assert 0.005 < ((share > 0.1) & (share < 0.9)).mean() < 0.4


def test_recolour_sets_brightness_and_contrast_whatever_the_tint() -> None:
    rng = np.random.default_rng(0)
    patch = rng.uniform(size=(64, 64, 3)).astype(np.float32)
    result = recolour(patch, 0.6, 0.1, np.ones(3, np.float32), 0, 1.0)
    assert np.ptp(result, axis=-1).max() < 1e-5, 'no saturation, white tint: grey'
    assert abs(result.mean() - 0.6) < 1e-3 and abs(result[..., 0].std() - 0.1) < 1e-3
    assert abs(random_tint(0.5, rng).mean() - 1) < 1e-6


@pytest.mark.parametrize('photo', PHOTOS, ids=lambda photo: photo.material)
def test_photographs_are_free_and_split_between_train_and_val(photo) -> None:
    assert photo.licence in ('CC0', 'public domain') and photo.source
    train, val = (load_region(photo, split) for split in ('train', 'val'))
    axis = 0 if train.shape[1] == val.shape[1] else 1
    x0, y0, x1, y1 = (side // photo.reduce for side in photo.region)
    assert np.concatenate([train, val], axis).shape == (y1 - y0, x1 - x0, 3), 'the parts meet and do not overlap'
    assert min(*train.shape[:2], *val.shape[:2]) >= 100
    document = (TOOL.parents[1] / 'docs' / 'demo_data.md').read_text()
    assert any(photo.file in line and photo.licence in line for line in document.splitlines())


def test_no_shape_and_no_texture_tells_the_category() -> None:
    assert len(CATEGORIES) >= 12 and len(set(CATEGORIES)) == len(CATEGORIES)
    for families, position in ((SHAPES, 0), (TEXTURES, 1)):
        assert Counter(category[position] for category in CATEGORIES) == dict.fromkeys(families, 2)


# ---- the whole set ----


def test_the_number_of_workers_changes_no_byte(demo: Path, tmp_path: Path) -> None:
    assert hashes(make_demo_data(tmp_path / 'two', SCALE, workers=2)) == hashes(demo)


def test_counts_are_balanced_and_scale(demo: Path) -> None:
    assert split_counts(1) == dict(train=3000, val=504)
    assert split_counts(4) == dict(train=12000, val=504)
    assert split_counts(SCALE) == COUNTS
    for split, count in COUNTS.items():
        per_class = Counter(path.parent.name for path in (demo / 'imagenet' / split).glob('*/*.jpg'))
        assert sorted(per_class) == [f'{i:02d}_{category.name}' for i, category in enumerate(CATEGORIES)]
        assert set(per_class.values()) == {count // len(CATEGORIES)}
        assert len(list((demo / 'flat' / split).glob('*.jpg'))) == count
    for scale in (0, -1, float('nan')):
        with pytest.raises(ValueError, match='scale must be a positive number'):
            split_counts(scale)


def test_all_names_of_a_scene_are_one_file(demo: Path) -> None:
    named = set()
    for key in (*keys('train'), *keys('val')):
        paths = [demo / path for path in image_paths(key)]
        assert len({path.stat().st_ino for path in paths}) == 1
        named.update(paths)
    assert named == set(demo.rglob('*.jpg'))


def test_train_and_val_share_no_scene(demo: Path) -> None:
    contents = [hashlib.sha256(path.read_bytes()).digest() for path in (demo / 'flat').rglob('*.jpg')]
    assert len(set(contents)) == len(contents) == sum(COUNTS.values())


@pytest.mark.parametrize('split', COUNTS)
def test_coco_agrees_with_the_label_maps(demo: Path, split: str) -> None:
    coco = pytest.importorskip('pycocotools.coco').COCO(demo / f'coco/annotations/instances_{split}2017.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == [c.name for c in CATEGORIES]
    assert len(coco.imgs) == COUNTS[split] and all((i >= 100 * VAL_ID_OFFSET) == (split == 'val') for i in coco.anns)
    for key, (image_id, info) in zip(keys(split), sorted(coco.imgs.items()), strict=True):
        image = cv2.imread(str(demo / f'coco/{split}2017' / info['file_name']))
        assert image.shape == (info['height'], info['width'], 3)
        folder = dict(train='training', val='validation')[split]
        name = f'{folder}/ADE_{split}_{key.index + 1:08d}.png'
        labels = cv2.imread(str(demo / 'ade/ADEChallengeData2016/annotations' / name), cv2.IMREAD_UNCHANGED)
        annotations = coco.imgToAnns[image_id]
        assert max(annotations, key=lambda annotation: annotation['area'])['category_id'] == key.label + 1
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            assert isinstance(annotation['segmentation'], dict) == bool(annotation['iscrowd'])
            inside = labels[mask & (labels > 0)]
            assert (inside == annotation['category_id']).mean() > (0.99 if annotation['iscrowd'] else 0.85)
            assert abs(mask.sum() - annotation['area']) <= 0.15 * annotation['area'] + 4
            x, y, width, height = annotation['bbox']
            assert min(x, y) >= 0 and x + width <= info['width'] and y + height <= info['height']


def test_ade_lists_describe_the_label_maps(demo: Path) -> None:
    root = demo / 'ade/ADEChallengeData2016'
    header, *rows = [line.split('\t') for line in (root / 'objectInfo150.txt').read_text().splitlines()]
    assert header == ['Idx', 'Ratio', 'Train', 'Val', 'Stuff', 'Name']
    classes = json.loads((root / 'classes.json').read_text())
    assert tuple(classes['classes']) == PIXEL_CLASSES == tuple(row[-1] for row in rows)
    assert len({tuple(colour) for colour in classes['palette']}) == len(PIXEL_CLASSES)
    assert abs(sum(float(row[1]) for row in rows) - 1) < 0.01
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((root / 'annotations/training').glob('*'))]
    assert len(maps) == COUNTS['train'] and all(labels.ndim == 2 for labels in maps)
    for number, row in enumerate(rows, 1):
        assert int(row[2]) == sum(number in labels for labels in maps)
    assert len((root / 'sceneCategories.txt').read_text().splitlines()) == sum(COUNTS.values())


@pytest.mark.parametrize('split', COUNTS)
def test_inaturalist_lists_the_files_that_exist(demo: Path, split: str) -> None:
    root = demo / 'inat2018'
    content = json.loads((root / f'{split}2018.json').read_text())
    assert set(content) == {'info', 'images', 'licenses', 'annotations', 'categories'}
    assert content['categories'] == json.loads((root / 'categories.json').read_text())
    assert set(content['images'][0]) == {'id', 'file_name', 'width', 'height', 'license', 'rights_holder'}
    labels = {annotation['image_id']: annotation['category_id'] for annotation in content['annotations']}
    for key, image in zip(keys(split), content['images'], strict=True):
        folder, supercategory, category, _ = image['file_name'].split('/')
        assert folder == 'train_val2018' and int(category) == labels[image['id']] == key.label
        assert content['categories'][key.label]['supercategory'] == supercategory
        assert cv2.imread(str(root / image['file_name'])).shape[:2] == (image['height'], image['width'])


def test_places_lists_the_files_that_exist(demo: Path) -> None:
    root = demo / 'places365'
    categories = [line.split() for line in (root / 'categories_places365.txt').read_text().splitlines()]
    assert categories[0] == ['/s/star_stripes', '0'] and len(categories) == len(CATEGORIES)
    train = [line.split() for line in (root / 'places365_train_standard.txt').read_text().splitlines()]
    assert train[0] == ['/s/star_stripes/00000001.jpg', '0'] and len(train) == COUNTS['train']
    for name, label in train:
        assert name.rsplit('/', 1)[0] == categories[int(label)][0]
        assert all((root / folder / name[1:]).is_file() for folder in ('data_large_standard', 'data_256_standard'))
    val = [line.split() for line in (root / 'places365_val.txt').read_text().splitlines()]
    assert val[0] == ['Places365_val_00000001.jpg', '0'] and len(val) == COUNTS['val']
    assert all((root / folder / name).is_file() for name, _ in val for folder in ('val_large', 'val_256'))


# ---- what lies in the output folder already ----


@pytest.fixture
def plain_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace painting by scenes of one grey level, the seed, with one object."""
    mask = np.eye(32, dtype=bool)
    image, labels = np.ones((32, 32, 3), np.uint8), np.ones((32, 32), np.uint8)
    monkeypatch.setattr(
        'mae_mm.demo_data.layouts.make_scene',
        lambda seed, split, index: Scene(seed * image, 90, index % 12, (Instance(0, mask, True),), 0, labels),
    )


def test_complete_data_are_left_alone(tmp_path: Path, plain_scenes: None) -> None:
    make_demo_data(tmp_path, SCALE)
    picture = tmp_path / 'flat/train/00000000.jpg'
    picture.write_bytes(b'mine')
    said = []
    make_demo_data(tmp_path, SCALE, say=said.append)
    assert picture.read_bytes() == b'mine' and 'nothing to do' in said[0]
    make_demo_data(tmp_path, SCALE, seed=1, say=said.append)
    assert picture.read_bytes() != b'mine' and 'replacing it' in said[1]


def test_an_interrupted_run_is_redone(tmp_path: Path, plain_scenes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    whole = hashes(make_demo_data(tmp_path / 'whole', SCALE))
    out = tmp_path / 'out'
    with monkeypatch.context() as patch:
        patch.setattr('mae_mm.demo_data.generate.write_ade', interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_demo_data(out, SCALE)
    assert hashes(out) != whole
    (out / 'mine.txt').write_text('keep me')
    (out / 'coco/train2017/left_over.jpg').touch()
    make_demo_data(out, SCALE)
    assert (out / 'mine.txt').read_text() == 'keep me'
    (out / 'mine.txt').unlink()
    assert hashes(out) == whole


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / 'coco' / 'precious.txt'
    precious.parent.mkdir()
    precious.write_text('mine')
    with pytest.raises(ValueError, match='was not made by this generator'):
        make_demo_data(tmp_path, SCALE)
    (tmp_path / 'demo_data.json').write_text('{}')
    run = subprocess.run([sys.executable, TOOL, '--out', tmp_path], capture_output=True, text=True)
    assert run.returncode == 1 and 'choose another --out' in run.stderr and 'Traceback' not in run.stderr
    assert precious.read_text() == 'mine' and not any((tmp_path / folder).exists() for folder in FOLDERS[:2])


def test_preview_draws_scenes(tmp_path: Path) -> None:
    panel = cv2.imread(str(write_preview(tmp_path / 'new' / 'panel.png', rows=1)))
    assert panel.shape[1] > 3 * panel.shape[0] and panel.std() > 30
    with pytest.raises(ValueError, match=r'panel\.txt: .*png'):
        write_preview(tmp_path / 'panel.txt')
