"""The images of six bands: what their spectra promise, their files, and recipes that fit them."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.configs import recipe
from mmengine.registry import init_default_scope

from mae_mm.datasets import ImageFolder
from mae_mm.demo_data import multiband
from mae_mm.demo_data.multiband import CLASSES, LIGHT, MATTER, make_multiband_data, make_scene
from mae_mm.registry import DATASETS


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """A few images on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiband, 'COUNTS', dict(train=8, val=4))
        return make_multiband_data(tmp_path_factory.mktemp('data') / 'bands', say=lambda text: None)


def spectra(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean spectrum, (N, 6), and the class of every object of some scenes."""
    found = [(scene.image[one.mask].mean(0), one.category) for scene in (
        make_scene(0, split, i) for i in range(count)) for one in scene.instances]
    return np.array([spectrum for spectrum, _ in found]), np.array([category for _, category in found])


def accuracy(bands: list[int], train: tuple, val: tuple) -> float:
    """Of the classes by Gaussians of one covariance."""
    (x, y), (test, truth) = train, val
    means = np.array([x[y == one][:, bands].mean(0) for one in range(len(CLASSES))])
    inverse = np.linalg.inv(np.cov((x[:, bands] - means[y]).T))
    far = np.einsum('nci,ij,ncj->nc', *[test[:, None, bands] - means, inverse, test[:, None, bands] - means])
    return float((far.argmin(1) == truth).mean())


def test_no_three_bands_tell_the_classes_apart_and_six_do() -> None:
    train, val = spectra('train', 200), spectra('val', 150)
    assert accuracy([*range(6)], train, val) > 0.98
    of_three = [accuracy([*three], train, val) for three in itertools.combinations(range(6), 3)]
    assert max(of_three) < 0.42 and np.mean(of_three) < 0.32  # chance is 0.25, of some 270 objects


def test_the_spaces_of_spectra() -> None:
    basis = np.hstack([LIGHT, MATTER])
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
    for three in itertools.combinations(range(6), 3):
        assert np.linalg.svd(LIGHT[[*three]], compute_uv=False)[-1] > 0.2  # any three bands see all of the light


def test_files(data: Path) -> None:
    for split, count in (('train', 8), ('val', 4)):
        content = json.loads((data / f'annotations/instances_{split}.json').read_text())
        assert len(content['images']) == count and [one['name'] for one in content['categories']] == list(CLASSES)
        for i, line in enumerate((data / f'meta/{split}.txt').read_text().splitlines()):
            scene = make_scene(0, split, i)
            assert line == f'{i:05}.npy {scene.label}' and scene.label == i % 4
            np.testing.assert_array_equal(np.load(data / split / f'{i:05}.npy'), scene.image)
            labels = cv2.imread(str(data / f'labels/{split}/{i:05}.png'), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(labels, scene.labels)
            areas = [int(one.mask.sum()) for one in scene.instances]
            assert areas[0] == max(areas) and scene.instances[0].category == scene.label
            assert [one['area'] for one in content['annotations'] if one['image_id'] == i] == areas
            for one in scene.instances:
                assert (labels[one.mask] == one.category + 1).all()
    assert not np.array_equal(make_scene(0, 'train', 0).image, make_scene(0, 'val', 0).image)


def test_made_once_and_nothing_else_is_replaced(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(multiband, 'COUNTS', dict(train=8, val=4))
    said = []
    make_multiband_data(data, say=said.append)
    assert 'nothing to do' in said[0]
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(ValueError, match='was not made by this generator'):
        make_multiband_data(tmp_path)
    (data / 'demo_data.json').write_text(json.dumps(dict(generator='mae_mm.demo_data', version=2)))
    with pytest.raises(ValueError, match='has other demo data'):
        make_multiband_data(data)


@pytest.mark.parametrize('task', ['mae_pretrain', 'classification', 'detection', 'segmentation'])
def test_recipes_read_six_bands_of_16_bits(task: str, data: Path) -> None:
    """Every loader of a recipe on the generated files: to the sample that the model gets."""
    cfg = recipe(f'demo/{task}_multiband')
    init_default_scope(cfg.default_scope)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options = cfg[loader].dataset.to_dict()
        options['data_root'] = options['data_root'].replace('data/demo_multiband', str(data))
        sample = DATASETS.build(options)[0]
        assert sample['inputs'].shape[0] == 6 and str(sample['inputs'].dtype) == 'torch.uint16'
        assert sample['inputs'].int().unique().diff().min() < 50  # 8 bits would have steps of 256
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    mean = preprocessor.get('mean') or cfg.data_preprocessor.mean
    assert len(mean) == len(cfg.model.backbone.in_chans) == 6
    measured = np.mean([np.load(path).mean((0, 1)) for path in (data / 'train').glob('*.npy')], 0)
    np.testing.assert_allclose(mean, measured, rtol=0.15)
    assert task != 'mae_pretrain' or isinstance(DATASETS.build(options), ImageFolder)
