"""Places365: both layouts, slashes, names, messages."""

from functools import partial
from pathlib import Path

import pytest

from mae_mm import datasets

Places365 = partial(datasets.Places365, serialize_data=False)  # serialising collects garbage: seconds, in the suite

TRAIN = ['/a/airfield/00000001.jpg 0', '/z/zen_garden/00000002.jpg 2', '/a/apartment_building/outdoor/00000003.jpg 1']
VAL = ['Places365_val_00000001.jpg 2', 'Places365_val_00000002.jpg 0']
CATEGORIES = ['/a/airfield 0', '/a/apartment_building/outdoor 1', '/z/zen_garden 2']


def write(root: Path, train_folder: str = 'data_256', val_folder: str = 'val_256', **lists: list[str]) -> Path:
    """Write a release of three classes; `lists` replace its files."""
    lists = {**dict(train_standard=TRAIN, val=VAL, categories=CATEGORIES), **lists}
    for folder, lines in ((train_folder, TRAIN), (val_folder, VAL)):
        for line in lines:
            path = root / folder / line.split()[0].lstrip('/')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for name, lines in lists.items():
        file = 'categories_places365.txt' if name == 'categories' else f'places365_{name}.txt'
        (root / file).write_text('\n'.join(lines) + '\n')
    return root


def samples(dataset: datasets.Places365) -> list[tuple[str, int]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(info['img_path'], info['gt_label']) for info in infos]


@pytest.mark.parametrize(('small', 'train_folder', 'val_folder'), [
    (True, 'data_256', 'val_256'), (True, 'data_256_standard', 'val_256'),
    (False, 'data_large', 'val_large'), (False, 'data_large_standard', 'val_large')])
def test_layouts(tmp_path, small, train_folder, val_folder):
    """As the archives unpack and as torchvision renames them; leading slashes do not lead to the file system's root."""
    write(tmp_path, train_folder, val_folder)
    train, val = (Places365(str(tmp_path), split=split, small=small) for split in ('train', 'val'))
    assert samples(train) == [
        (f'{tmp_path}/{train_folder}/a/airfield/00000001.jpg', 0),
        (f'{tmp_path}/{train_folder}/z/zen_garden/00000002.jpg', 2),
        (f'{tmp_path}/{train_folder}/a/apartment_building/outdoor/00000003.jpg', 1)]
    assert samples(val) == [
        (f'{tmp_path}/{val_folder}/Places365_val_00000001.jpg', 2),
        (f'{tmp_path}/{val_folder}/Places365_val_00000002.jpg', 0)]
    assert train.metainfo['classes'] == val.metainfo['classes'] == (
        'airfield', 'apartment_building/outdoor', 'zen_garden')


def test_classes_follow_their_numbers_not_their_order(tmp_path):
    write(tmp_path, categories=CATEGORIES[::-1])
    assert Places365(str(tmp_path)).metainfo['classes'] == ('airfield', 'apartment_building/outdoor', 'zen_garden')


@pytest.mark.parametrize('name', ['/a/../../secret.jpg', '../x.jpg'])
def test_files_outside_the_root_are_refused(tmp_path, name):
    write(tmp_path, train_standard=[f'{name} 0'])
    with pytest.raises(ValueError, match='outside'):
        Places365(str(tmp_path))


@pytest.mark.parametrize('missing', ['places365_train_standard.txt', 'categories_places365.txt'])
def test_missing_lists_show_the_layout(tmp_path, missing):
    (write(tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf'(?s){missing}.*ROOT/places365_.*make_demo_data'):
        Places365(str(tmp_path))


def test_missing_images_name_both_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(?s)data_large or .*data_large_standard.*ROOT/data_256/a/airfield'):
        Places365(str(write(tmp_path)), small=False)


def test_missing_first_image_is_named(tmp_path):
    (write(tmp_path) / 'data_256/a/airfield/00000001.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='00000001'):
        Places365(str(tmp_path))


@pytest.mark.parametrize(('lists', 'message'), [
    (dict(train_standard=[*TRAIN, 'no label']), 'line 4'),
    (dict(train_standard=['/a/airfield/1.jpg']), 'line 1'),
    (dict(train_standard=['/a/airfield/1.jpg 3']), 'must number its classes from 0, and list'),
    (dict(train_standard=[]), "is not 'path label'"),
    (dict(categories=CATEGORIES[1:]), 'must number its classes from 0')])
def test_lists_that_do_not_fit_are_refused(tmp_path, lists, message):
    write(tmp_path, **lists)
    with pytest.raises(ValueError, match=message):
        Places365(str(tmp_path))


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split='test' must be one of train, val"):
        Places365(str(tmp_path), split='test')
