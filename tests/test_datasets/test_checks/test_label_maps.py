"""Faulty labels are named before training starts: broken copies of the demo data's ADE20K layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import RepeatDataset
from PIL import Image
from torch import nn

from mae_mm.datasets.checks import label_maps
from mae_mm.datasets.checks.label_maps import check_classifier, check_heads, check_label_maps, find_faults, valid_labels
from mae_mm.demo_data.generate import make_demo_data

CLASSES = [str(i) for i in range(20)]


@pytest.fixture(scope='module')
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 12 val images."""
    root = make_demo_data(tmp_path_factory.mktemp('demo'), scale=0.01, say=lambda message: None)
    return root / 'ade/ADEChallengeData2016'


@pytest.fixture
def copy(ade: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(ade, tmp_path / 'ade'))


def dataset_of(root: Path, **options):
    from mmseg.datasets import BaseSegDataset

    return BaseSegDataset(
        data_root=str(root), data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        **{'metainfo': dict(classes=CLASSES), 'reduce_zero_label': True, 'serialize_data': False, **options})


def test_valid_labels_by_hand() -> None:
    """Three classes: 0, 1, 2 and 255; with label 0 reduced 0 (unlabelled), 1, 2, 3 and 255."""
    assert np.flatnonzero(valid_labels(3, reduce_zero_label=False)).tolist() == [0, 1, 2, 255]
    assert np.flatnonzero(valid_labels(3, reduce_zero_label=True)).tolist() == [0, 1, 2, 3, 255]
    # The second of four classes is chosen: the others are read as unlabelled, a fifth is a fault.
    chosen = {0: 255, 1: 0, 2: 255, 3: 255}
    assert np.flatnonzero(valid_labels(1, False, chosen)).tolist() == [0, 1, 2, 3, 255]
    assert np.flatnonzero(valid_labels(1, True, chosen)).tolist() == [0, 1, 2, 3, 4, 255]


@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_valid_labels_are_what_mmseg_reads(tmp_path: Path, reduce_zero_label: bool) -> None:
    from mmseg.datasets.transforms import LoadAnnotations

    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / 'all.png')
    results = dict(seg_map_path=str(tmp_path / 'all.png'), reduce_zero_label=reduce_zero_label, seg_fields=[])
    read = LoadAnnotations().transform(results)['gt_seg_map'].ravel()
    assert ((read < 7) | (read == 255)).tolist() == valid_labels(7, reduce_zero_label).tolist()


def test_correct_data_pass_and_large_data_are_sampled(ade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(label_maps, 'find_faults', lambda *args: read.append(args[1]) or find_faults(*args))
    check_label_maps(RepeatDataset(dataset_of(ade), 1), 'train')
    assert len(set(read)) == 24
    monkeypatch.setattr(label_maps, 'NUM_READ', 5)
    check_label_maps(dataset_of(ade), 'train')
    assert sorted(read[24:]) == sorted(read[:24])[::5]


def test_all_faults_are_named(copy: Path) -> None:
    folder = copy / 'annotations/training'
    paths = sorted(folder.iterdir())
    wide = np.array(Image.open(paths[1]))
    Image.fromarray(wide[:, 1:]).save(paths[1])
    wrong = np.array(Image.open(paths[2]))
    wrong[3, 4] = 21  # the classes are 1 … 20
    wrong[5, 6] = 90
    Image.fromarray(wrong).save(paths[2])
    for path in paths[3:7]:
        Image.open(path).convert('RGB').save(path)
    paths[7].write_bytes(paths[7].read_bytes()[:60])
    with pytest.raises(ValueError) as error:
        check_label_maps(dataset_of(copy), 'train_dataloader.dataset')
    message = str(error.value)
    height, width = wide.shape
    image = copy / f'images/training/{paths[1].stem}.jpg'
    for text in (
            'train_dataloader.dataset has wrong labels',
            f'{paths[1]} is ({width - 1}, {height}), {image} is ({width}, {height})',
            f'1 x label map with values outside the classes: {paths[2]} has [21, 90]',
            '4 x label map that is not one channel of 8 bits', f'{paths[3]} (Pillow mode RGB)', ' …',
            f'1 x unreadable file: {copy}/images/training/{paths[7].stem}.jpg',
            'values of the 20 classes are 1 … 20, of unlabelled pixels 0 and 255 (reduce_zero_label=True)'):
        assert text in message, text
    assert str(paths[6]) not in message
    with pytest.raises(ValueError, match='label map with values outside the classes'):  # 20 was class 19
        check_label_maps(dataset_of(copy, reduce_zero_label=False), 'train')
    paths[0].unlink()
    with pytest.raises(ValueError, match=f'1 x missing file: {paths[0]} for {copy}/images/training/{paths[0].stem}'):
        check_label_maps(dataset_of(copy), 'train')


def test_an_image_on_its_side_has_the_size_that_mmseg_loads(tmp_path: Path) -> None:
    from mmcv import imread

    image = Image.new('RGB', (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / 'a.jpg', exif=exif)
    Image.new('L', (20, 30)).save(tmp_path / 'a.png')
    Image.new('L', (30, 20)).save(tmp_path / 'b.png')
    assert imread(tmp_path / 'a.jpg').shape[:2] == (30, 20)
    valid = valid_labels(3, False)
    assert not find_faults(tmp_path / 'a.jpg', tmp_path / 'a.png', valid)
    assert 'another size' in find_faults(tmp_path / 'a.jpg', tmp_path / 'b.png', valid)[0][0]


@pytest.mark.parametrize(('mode', 'value', 'faulty'), [
    ('L', 2, False), ('L', 3, True), ('P', 2, False), ('P', 3, True), ('1', 1, False), ('I;16', 2, True)])
def test_kinds_of_label_maps(tmp_path: Path, mode: str, value: int, faulty: bool) -> None:
    """Three classes. Indices of a palette count, not its colours; 16 bits would be cut to 8 in silence."""
    label_map = Image.new(mode, (4, 4), value)
    if mode == 'P':
        label_map.putpalette([200, 100, 50] * 256)
    label_map.save(tmp_path / 'a.png')
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg')
    assert bool(find_faults(tmp_path / 'a.jpg', tmp_path / 'a.png', valid_labels(3, False))) == faulty


def test_data_without_images_or_classes(ade: Path) -> None:
    with pytest.raises(ValueError, match=r'train has no images.*img_suffix'):
        check_label_maps(dataset_of(ade, img_suffix='.jpeg'), 'train')
    with pytest.raises(ValueError, match=r'train has no classes; give metainfo=dict\(classes='):
        check_label_maps(dataset_of(ade, metainfo=None), 'train')


def test_heads_of_other_classes_are_named() -> None:
    head = nn.Module()
    head.conv_seg, head.num_classes = nn.Conv2d(1, 150, 1), 150
    model = nn.ModuleDict(dict(decode_head=head))
    check_heads(model, 150, 'train_dataloader')
    with pytest.raises(ValueError, match=r'decode_head has 150 classes, train_dataloader.dataset 20; set model\.'):
        check_heads(model, 20, 'train_dataloader')


def test_config_of_another_task_is_left_alone() -> None:
    class Runner:
        cfg = Config(dict(train_dataloader=dict(a=1), val_dataloader=None))
        train_dataloader = type('Loader', (), dict(dataset=[1, 2]))

    label_maps.check_labels(Runner(), ('train_dataloader', 'val_dataloader'))


def test_classifiers_of_another_number_of_classes_are_refused() -> None:
    cfg = Config(dict(model=dict(head=dict(num_classes=12)), data_preprocessor=dict(num_classes=12)))
    check_classifier(cfg, 12, 'train_dataloader')
    with pytest.raises(ValueError, match=(
            r'train_dataloader\.dataset has 5 classes, but model\.head\.num_classes=12 and .*: --cfg-options '
            r'model\.head\.num_classes=5 data_preprocessor\.num_classes=5')):
        check_classifier(cfg, 5, 'train_dataloader')
    cfg.data_preprocessor.num_classes = 1000
    with pytest.raises(ValueError, match=r'data_preprocessor\.num_classes=1000'):
        check_classifier(cfg, 12, 'train_dataloader')
    check_classifier(Config(dict(model=dict(head=dict(type='mae_mm.MAEHead')))), 5, 'train_dataloader')


def test_top_5_of_four_classes_is_refused() -> None:
    cfg = Config(dict(model=dict(head=dict(num_classes=4)), val_evaluator=dict(type='Accuracy', topk=(1, 5))))
    for loader in ('train_dataloader', 'val_dataloader'):
        with pytest.raises(ValueError, match=r'val_evaluator\.topk=\(1, 5\) takes more .* 4 .*topk=\[1\]'):
            check_classifier(cfg, 4, loader)
    cfg.val_evaluator = [dict(type='Accuracy'), dict(type='Accuracy', topk=5)]
    with pytest.raises(ValueError, match=r'val_evaluator\.1\.topk=5 .*--cfg-options val_evaluator\.1\.topk=\[1\]'):
        check_classifier(cfg, 4, 'val_dataloader')
    cfg.val_evaluator[1].topk = (1, 4)
    check_classifier(cfg, 4, 'val_dataloader')
