"""COCO annotations that do not fit are told before training starts; classes come from the file when asked."""

import copy
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.detection import NAMES, write_coco
from mmengine.config import Config
from PIL import Image

from mae_mm.datasets.checks import coco
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import LOADERS, check_data


def make_config(folder: Path, classes: list | None = NAMES) -> Config:
    """A Mask R-CNN whose three loaders read `train.json`, the first wrapped."""
    number, meta = (len(classes), dict(metainfo=dict(classes=classes))) if classes else (80, {})
    dataset = dict(
        type='CocoDataset', **meta, data_root=str(folder), ann_file='train.json', data_prefix=dict(img='images/'),
        pipeline=[dict(type='LoadAnnotations', with_mask=True)])
    cfg = Config(dict(
        default_scope='mmdet',
        model=dict(type='MaskRCNN', backbone=dict(type='mae_mm.ViT'), rpn_head=dict(num_classes=1), roi_head=dict(
            bbox_head=[dict(num_classes=number), dict(num_classes=number)], mask_head=dict(num_classes=number))),
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset)),
        val_dataloader=dict(dataset=copy.deepcopy(dataset)), test_dataloader=dict(dataset=copy.deepcopy(dataset)),
        val_evaluator=dict(type='CocoMetric', ann_file=str(folder / 'train.json'))))
    return cfg


def test_a_config_that_fits_its_files(tmp_path: Path) -> None:
    check_data(make_config(write_coco(tmp_path)), LOADERS)


def test_an_annotation_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no data at .*train\.json'):
        check_data(make_config(tmp_path), ('train_dataloader', ))


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
    (_stray_image, r"annotations .*'image_id', must be the id of an image in the file \(11: 77\)"),
    (_stray_category, r"annotations .*'category_id', must be the id of a category in the file \(11: 1\)"),
    (_missing_image, r'images are missing in .*images \(data_root \+ data_prefix.img .*\) \(gone\.jpg\)'),
    (_other_size, r'0\.jpg has 30x40 pixels there, but 40x30 as loaded'),
    (_no_masks, r"annotations .*'segmentation', .*boxes alone.*\(13: \[\]\)"),
    (_fractions, r'boxes are .* smaller than a pixel, of 4; must be '
     r'\[x, y, width, height\] in pixels \(\[0\.1, 0\.1, 0\.5, 0\.5\] in \[40.*30.*\]'),
    (_no_crowd_key, r"annotations have a missing or wrong 'iscrowd', must be 0 or 1 \(10: None\)"),
    (_no_file_name, r"images have a missing or wrong 'file_name'"),
    (_twice, r'has the categories boat, ant, cup, … .*in another order'),
    (_no_categories, r"not a COCO annotation file \('categories'.*expected: \{"),
    (_no_images, r'has no images'),
])
def test_what_does_not_fit_is_named(change: Callable, message: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    cfg = make_config(tmp_path)
    write_coco(tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        check_data(cfg, ('train_dataloader', ))
    assert str(tmp_path) in str(error.value)


def test_unreadable_file(tmp_path: Path) -> None:
    (write_coco(tmp_path) / 'train.json').write_text('{"images": [')
    with pytest.raises(ValueError, match=r'train\.json is not valid JSON'):
        check_data(make_config(tmp_path), ('train_dataloader', ))


def test_masks_are_wanted_only_where_they_are_loaded(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path, _no_masks))
    cfg.train_dataloader.dataset.dataset.pipeline[0].with_mask = False
    check_data(cfg, ('train_dataloader', ))


def test_rotation_told_by_exif_is_applied(tmp_path: Path) -> None:
    write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.full((40, 30, 3), 99, np.uint8)).save(tmp_path / 'images' / '0.jpg', exif=exif)
    check_data(make_config(tmp_path), ('train_dataloader', ))


@pytest.mark.parametrize(('classes', 'message'), [
    (['ant', 'boat', 'cup'], r"boat, ant, cup .* another order, .*mixed up.*classes=\('boat', 'ant', 'cup'\)"),
    (['boat', 'ant', 'dog'], r'1 of the 3 classes are missing \(dog\).*num_classes=3 in model\.roi_head'),
])
def test_classes_that_the_file_has_not(classes: list, message: str, tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path), classes)
    with pytest.raises(ValueError, match=message):
        check_data(cfg, ('train_dataloader', ))


def test_heads_with_another_number_of_classes(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(ValueError, match=r'model\.roi_head\.mask_head\.num_classes=80, but .* has 3 classes'):
        check_data(cfg, ('train_dataloader', ))
    cfg.model = dict(type='RetinaNet', bbox_head=dict(num_classes=7))
    with pytest.raises(ValueError, match=r'model\.bbox_head\.num_classes=7'):
        check_data(cfg, ('train_dataloader', ))


def test_without_classes_they_are_those_of_coco(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'78 of the 80 classes .*\(person, bicycle, car, …\).*num_classes=3'):
        check_data(make_config(write_coco(tmp_path), None), ('train_dataloader', ))


def test_a_part_of_the_categories_may_be_chosen(tmp_path: Path) -> None:
    check_data(make_config(write_coco(tmp_path), ['boat', 'cup']), ('train_dataloader', ))


def test_evaluator_of_other_annotations(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.val_evaluator.ann_file = 'data/coco/annotations/instances_val2017.json'
    with pytest.raises(ValueError, match=r'val_evaluator\.ann_file=data/coco/.* is not the file that val_dataloader'):
        check_data(cfg, ('val_dataloader', ))


def test_amp_of_a_detector_is_the_backbone_alone(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.optim_wrapper = dict(type='OptimWrapper')
    launch.use_autocast(cfg)
    assert cfg.model.backbone.bf16 and cfg.optim_wrapper.type == 'OptimWrapper'


def _set(entries: str, index: int, **values: object) -> Callable[[dict], None]:
    """A change of one entry of the file."""
    return lambda content: content[entries][index].update(values)


def _corners(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['bbox'] = [22, 13, 38, 28]


def _other_image_size(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['bbox'] = [30, 20, 25, 15]


def _no_annotations(content: dict) -> None:
    content['annotations'] = []


def _no_id(content: dict) -> None:
    del content['annotations'][2]['id']


@pytest.mark.parametrize(('change', 'message'), [
    (_corners, r'boxes are outside .*\[x, y, width, height\].*look like corners \[x1, y1, x2, y2\] '
               r'\(\[22.*\] in \[40.*30.*\], '),
    (_other_image_size, r'boxes are outside their image .* in pixels \(\['),
    (_set('annotations', 1, bbox=[2, 3, float('nan'), 10]), r"'bbox', must be \[x.*\(11: \[2, 3, nan, 10\]\)"),
    (_set('annotations', 1, bbox=['2', 3, 20, 10]), r"'bbox', .*\(11: \['2', 3, 20, 10\]"),
    (_set('annotations', 1, bbox=[2, 3, 20]), r"'bbox', .*\(11: \[2, 3, 20\]"),
    (_set('annotations', 1, area=None), r"'area', must be a finite number \(11: None\)"),
    (_set('annotations', 1, iscrowd='0'), r"'iscrowd', must be 0 or 1 \(11: 0\)"),
    (_set('annotations', 1, segmentation=[2, 3, 22, 3, 22, 13]), r'must be polygons .*11: \[2, 3, 22, 3, 22, 13\]'),
    (_set('annotations', 1, segmentation=dict(size=[40, 30], counts=[1200])), r"code .*11: {'size': \[40, 30\]"),
    (_set('annotations', 1, segmentation=dict(size=[30, 40])), r"code .*11: {'size': \[30, 40\]}"),
    (_no_id, r"annotations have a missing or wrong 'id'"),
    (_set('annotations', 1, id=10), r'ids belong to several annotations \(10\)'),
    (_set('images', 1, id=0), r'ids belong to several images \(0\)'),
    (_set('categories', 1, id=5), r'ids belong to several categories \(5\)'),
    (_set('annotations', 1, id='11'), r"annotations .*'id', must be a finite number \({'id': '11'"),
    (_set('annotations', 1, image_id='1'), r"'image_id', must be the id of an image in the file \(11: 1\)"),
    (_no_annotations, r'train\.json has no annotations'),
])
def test_entries_that_do_not_fit_are_named(change: Callable, message: str, tmp_path: Path) -> None:
    test_what_does_not_fit_is_named(change, message, tmp_path)


def _some_odd_ones(content: dict) -> None:
    """Forty correct annotations, and some that real data have, too."""
    correct = content['annotations'][0]
    content['annotations'] = [dict(correct, id=i) for i in range(40)]
    for i, bbox in enumerate(([50, 3, 20, 10], [2, 3, -5, 10], [2, 3, 39.5, 10])):  # the last leaves by a pixel
        content['annotations'][i]['bbox'] = bbox
    content['annotations'][20]['area'] = 0
    content['annotations'][30]['segmentation'] = dict(size=[30, 40], counts='0`V1')
    content['annotations'][31].update(segmentation=dict(size=[30, 40], counts=[100, 300, 800]), iscrowd=1)


def test_single_odd_annotations_are_tolerated(tmp_path: Path) -> None:
    check_data(make_config(write_coco(tmp_path, _some_odd_ones)), ('train_dataloader', ))


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_an_encoding_that_pycocotools_does_not_read_is_named(encoding: str, tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    file = tmp_path / 'train.json'
    file.write_text(file.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match=r'train\.json is not valid JSON'):
        check_data(cfg, ('train_dataloader', ))


def test_held_out_file_of_other_categories(tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    content = json.loads((tmp_path / 'train.json').read_text())
    content['categories'][1]['name'] = 'bee'
    (tmp_path / 'val.json').write_text(json.dumps(content))
    cfg.val_dataloader.dataset.ann_file = 'val.json'
    with pytest.raises(ValueError, match=r'val\.json .*\(ant\); the categories of the file are '):
        check_data(cfg, ('val_dataloader', ))


@pytest.mark.parametrize(('values', 'key'), [
    (dict(ann_file='gone.json'), 'ann_file'), (dict(data_prefix=dict(img='gone')), 'data_prefix.img'),
    (dict(data_root='gone'), 'data_root')])
def test_a_missing_path_names_its_key(values: dict, key: str, tmp_path: Path) -> None:
    cfg = make_config(write_coco(tmp_path))
    cfg.train_dataloader.dataset.dataset.update(values)
    with pytest.raises(FileNotFoundError, match=rf'gone(\.json)?  \(train_dataloader\.dataset\.dataset\.{key}, CocoData'
                       ) as error:
        check_data(cfg, ('train_dataloader', ))
    assert f'own data:   --cfg-options train_dataloader.dataset.dataset.{key}=PATH' in str(error.value)


def test_names_in_another_unicode_form_are_recognised(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, 'café.jpg') for form in ('NFC', 'NFD')]
    Image.new('RGB', (40, 30)).save(tmp_path / names[0])
    image = dict(width=40, height=30)
    coco.check_images([dict(image, file_name=names[0])], Path('x.json'), tmp_path)
    with pytest.raises(ValueError, match=r'images are missing in .* another Unicode form .*--nfc renames them\) \('):
        coco.check_images([dict(image, file_name=names[1])], Path('x.json'), tmp_path)
