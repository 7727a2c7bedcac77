"""COCO annotations that do not fit are told before training starts; classes come from the file when asked."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mae_mm import coco, launch

ROOT = Path(__file__).parents[1]
NAMES = ['boat', 'ant', 'cup']  # not in alphabetical order


def write_coco(folder: Path, change: Callable[[dict], None] | None = None) -> Path:
    """Four images of 40x30 px with one object each in `folder/images`, and `folder/train.json`."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=30) for i in range(4)],
        annotations=[dict(
            id=10 + i, image_id=i, category_id=5 + i % 3, bbox=[2, 3, 20, 10], area=200, iscrowd=0,
            segmentation=[[2, 3, 22, 3, 22, 13, 2, 13]]) for i in range(4)],
        categories=[dict(id=5 + i, name=name) for i, name in enumerate(NAMES)])
    for image in content['images']:
        Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(folder / 'images' / image['file_name'])
    if change:
        change(content)
    (folder / 'train.json').write_text(json.dumps(content))
    return folder


def make_config(folder: Path, classes: object = 'json') -> Config:
    """A Mask R-CNN whose three loaders read `train.json`, the first wrapped."""
    dataset = dict(type='CocoDataset', data_root=str(folder), ann_file='train.json', data_prefix=dict(img='images/'),
                   pipeline=[dict(type='LoadAnnotations', with_mask=True)])
    cfg = Config(dict(
        default_scope='mmdet',
        model=dict(type='MaskRCNN', backbone=dict(type='mae_mm.ViT'), rpn_head=dict(num_classes=1), roi_head=dict(
            bbox_head=[dict(num_classes=80), dict(num_classes=80)], mask_head=dict(num_classes=80))),
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset)),
        val_dataloader=dict(dataset=copy.deepcopy(dataset)), test_dataloader=dict(dataset=copy.deepcopy(dataset)),
        val_evaluator=dict(type='CocoMetric', ann_file=str(folder / 'train.json'))))
    if classes:
        cfg.classes = classes
        coco.adopt_classes(cfg)
    return cfg


def test_classes_of_the_file_reach_data_sets_and_heads(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    for loader in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        assert loader.metainfo == dict(classes=tuple(NAMES))
    roi_head = cfg.model.roi_head
    assert [head.num_classes for head in (*roi_head.bbox_head, roi_head.mask_head)] == [3, 3, 3]
    assert cfg.model.rpn_head.num_classes == 1 and 'classes' not in cfg
    launch.check_data(cfg, launch.LOADERS)


def test_classes_may_be_a_list_and_are_many(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, [str(i) for i in range(81)])
    assert cfg.model.roi_head.mask_head.num_classes == 81
    assert cfg.val_dataloader.dataset.metainfo.palette == 'random'  # mmdet's palette has 80 colours
    with pytest.raises(ValueError, match="classes='jsno' is neither 'json' nor a list"):
        make_config(tmp_path, 'jsno')


def test_classes_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    (tmp_path / 'images').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no data at .*train\.json'):
        launch.check_data(cfg, ('train_dataloader', ))
    # Evaluation elsewhere: the held-out file is there, but the training file, which numbers the classes, is not.
    write_coco(tmp_path / 'held_out')
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'held_out')
    with pytest.raises(FileNotFoundError, match=r"classes='json' means the categories of the training annotations"):
        launch.check_data(cfg, ('test_dataloader', ))


def _stray_image(content: dict) -> None:
    content['annotations'][1]['image_id'] = 77


def _stray_category(content: dict) -> None:
    content['annotations'][1]['category_id'] = 1


def _missing_image(content: dict) -> None:
    content['images'][2]['file_name'] = 'gone.jpg'


def _other_size(content: dict) -> None:
    content['images'][0].update(width=30, height=40)


def _no_masks(content: dict) -> None:
    content['annotations'][3]['segmentation'] = []


def _fractions(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['bbox'] = [0.1, 0.1, 0.5, 0.5]


def _no_crowd_key(content: dict) -> None:
    del content['annotations'][0]['iscrowd']


def _no_file_name(content: dict) -> None:
    del content['images'][0]['file_name']


def _twice(content: dict) -> None:
    content['categories'].append(dict(id=99, name='ant'))


def _no_categories(content: dict) -> None:
    del content['categories']


def _no_images(content: dict) -> None:
    content.update(images=[], annotations=[])


@pytest.mark.parametrize(('change', 'message'), [
    (_stray_image, r'1 annotations are of images that are not in the file \(11\)'),
    (_stray_category, r'1 annotations are of categories that are not in the file \(11\)'),
    (_missing_image, r'1 images are not in .*images \(data_root \+ data_prefix.img \+ file_name\) \(gone\.jpg\)'),
    (_other_size, r'0\.jpg has 30x40 pixels, but it has 40x30'),
    (_no_masks, r'1 annotations have no segmentation, .*boxes alone.*\(13\)'),
    (_fractions, r'not one bbox .* \[0\.1, 0\.1, 0\.5, 0\.5\]\); COCO boxes are \[x, y, width, height\] in pixels'),
    (_no_crowd_key, r'1 annotations have no iscrowd \(10\)'),
    (_no_file_name, r"an image, annotation or category has no 'file_name'"),
    (_twice, r"several categories named 'ant'"),
    (_no_categories, r'no COCO annotation file: it has no list of categories; wanted: \{"images"'),
    (_no_images, r'has no images'),
])
def test_what_does_not_fit_is_named(change: Callable, message: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    cfg = make_config(tmp_path)
    write_coco(tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        launch.check_data(cfg, ('train_dataloader', ))
    assert str(tmp_path) in str(error.value)


def test_unreadable_file(tmp_path: Path) -> None:
    (write_coco(tmp_path) / 'train.json').write_text('{"images": [')
    with pytest.raises(ValueError, match=r'train\.json is no readable json'):
        make_config(tmp_path)


def test_masks_are_wanted_only_where_they_are_loaded(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path, _no_masks))
    cfg.train_dataloader.dataset.dataset.pipeline[0].with_mask = False
    launch.check_data(cfg, ('train_dataloader', ))


def test_rotation_told_by_exif_is_applied(tmp_path: Path) -> None:
    write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.full((40, 30, 3), 99, np.uint8)).save(tmp_path / 'images' / '0.jpg', exif=exif)
    launch.check_data(make_config(tmp_path), ('train_dataloader', ))


@pytest.mark.parametrize(('classes', 'message'), [
    (['ant', 'boat', 'cup'], r'another order \(boat, ant, cup\).*mixed up.*classes=json'),
    (['boat', 'ant', 'dog'], r'1 of the 3 classes of the data set are not among them \(dog\).*classes=json'),
])
def test_classes_that_the_file_has_not(classes: list, message: str, tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path), classes)
    with pytest.raises(ValueError, match=message):
        launch.check_data(cfg, ('train_dataloader', ))


def test_heads_with_another_number_of_classes(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(ValueError, match=r'model\.roi_head\.mask_head\.num_classes=80, but .* gives 3 classes'):
        launch.check_data(cfg, ('train_dataloader', ))
    cfg.model = dict(type='RetinaNet', bbox_head=dict(num_classes=7))
    with pytest.raises(ValueError, match=r'model\.bbox_head\.num_classes=7'):
        launch.check_data(cfg, ('train_dataloader', ))


def test_without_classes_they_are_those_of_coco(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'78 of the 80 classes .*\(person, bicycle, car, …\).*classes=json'):
        launch.check_data(make_config(write_coco(tmp_path), None), ('train_dataloader', ))


def test_a_part_of_the_categories_may_be_chosen(tmp_path: Path) -> None:
    launch.check_data(make_config(write_coco(tmp_path), ['boat', 'cup']), ('train_dataloader', ))


def test_evaluator_of_other_annotations(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.val_evaluator.ann_file = 'data/coco/annotations/instances_val2017.json'
    with pytest.raises(ValueError, match=r'val_evaluator\.ann_file=data/coco/.* is not the file that val_dataloader'):
        launch.check_data(cfg, ('val_dataloader', ))


def test_amp_of_a_detector_is_the_backbone_alone(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.optim_wrapper = dict(type='OptimWrapper')
    launch.use_autocast(cfg)
    assert cfg.model.backbone.bf16 and cfg.optim_wrapper.type == 'OptimWrapper'
