"""iNaturalist: labels, names, and messages."""

import json
from functools import partial
from pathlib import Path

import pytest

from mae_mm import datasets

INaturalist = partial(datasets.INaturalist, serialize_data=False)  # serialising collects garbage: seconds, in the suite


def write(root: Path, split: str = 'train', year: int = 2018, **changes) -> Path:
    """Write a release of three images in three of the four categories; `changes` replace parts of the json."""
    folder = dict({2017: 'train_val_images'}).get(year, f'train_val{year}')
    content = dict(
        images=[dict(id=i, file_name=f'{folder}/Aves/{i}/{i}.jpg') for i in (30, 10, 20)],
        annotations=[
            dict(id=1, image_id=10, category_id=7), dict(id=2, image_id=20, category_id=2),
            dict(id=3, image_id=30, category_id=9)],
        categories=[dict(id=i, name=f'name {i}', supercategory='Aves') for i in (9, 2, 7, 4)])
    content.update(changes)
    for image in content['images']:
        path = root / image['file_name']
        if path.is_relative_to(root) and '..' not in path.parts:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (root / f'{split}{year}.json').write_text(json.dumps(content))
    return root


def samples(dataset: datasets.INaturalist) -> list[tuple[str, int]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(info['img_path'], info['gt_label']) for info in infos]


@pytest.mark.parametrize('year', [2017, 2018, 2019])
def test_label_is_the_rank_of_the_category_id(tmp_path, year):
    """Hand-worked: ids 2, 4, 7, 9 are labels 0, 1, 2, 3, in whatever order the file lists them."""
    dataset = INaturalist(data_root=str(write(tmp_path, year=year)), year=year)
    folder = tmp_path / ('train_val_images' if year == 2017 else f'train_val{year}')
    assert samples(dataset) == [
        (str(folder / f'Aves/{i}/{i}.jpg'), label) for i, label in ((10, 2), (20, 0), (30, 3))]
    assert dataset.metainfo['classes'] == ('name 2', 'name 4', 'name 7', 'name 9')


def test_train_and_val_agree_on_labels(tmp_path):
    """The lists of categories may come in another order in each file."""
    write(tmp_path)
    write(tmp_path, 'val', categories=[dict(id=i, name=f'name {i}') for i in (2, 4, 7, 9)])
    train, val = (INaturalist(data_root=str(tmp_path), split=split) for split in ('train', 'val'))
    assert samples(train) == samples(val)
    assert train.metainfo['classes'] == val.metainfo['classes']


def test_published_names_replace_the_obfuscated_ones(tmp_path):
    write(tmp_path)
    (tmp_path / 'categories.json').write_text(json.dumps([dict(id=i, name=f'Parus {i}') for i in (9, 7, 4, 2)]))
    classes = INaturalist(data_root=str(tmp_path)).metainfo['classes']
    assert classes == ('Parus 2', 'Parus 4', 'Parus 7', 'Parus 9')


def test_names_of_the_config_win(tmp_path):
    dataset = INaturalist(data_root=str(write(tmp_path)), metainfo=dict(classes=('a', 'b', 'c', 'd')))
    assert dataset.metainfo['classes'] == ('a', 'b', 'c', 'd')


@pytest.mark.parametrize('name', ['../secret.jpg', '/etc/passwd', 'train_val2018/../../x.jpg', '..\\x.jpg'])
def test_files_outside_the_root_are_refused(tmp_path, name):
    images = [dict(id=10, file_name=name)]
    write(tmp_path, images=images, annotations=[dict(id=1, image_id=10, category_id=7)])
    with pytest.raises(ValueError, match='outside'):
        INaturalist(data_root=str(tmp_path))


def test_dots_inside_a_name_are_no_escape(tmp_path):
    images = [dict(id=10, file_name='train_val2018/Aves/7/a..b.jpg')]
    write(tmp_path, images=images, annotations=[dict(id=1, image_id=10, category_id=7)])
    assert len(INaturalist(data_root=str(tmp_path))) == 1


def test_missing_annotations_show_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(?s)train2018\.json.*ROOT/train2018\.json.*make_demo_data'):
        INaturalist(data_root=str(tmp_path))


def test_missing_images_show_the_layout(tmp_path):
    """Annotations unpacked, images not."""
    for path in (write(tmp_path) / 'train_val2018').rglob('*.jpg'):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'(?s)10\.jpg.*ROOT/train_val2018/<super category>'):
        INaturalist(data_root=str(tmp_path))


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(annotations=[dict(id=1, image_id=99, category_id=7)]), r'missing or malformed \(KeyError\(99\)'),
    (dict(annotations=[dict(id=1, image_id=10, category_id=3)]), r'missing or malformed \(KeyError\(3\)'),
    (dict(annotations=None), 'test files have no labels'),
    (dict(annotations=[]), 'lists no image'),
    (dict(categories=[dict(id=7)]), r"missing or malformed \(KeyError\('name'\)"),
])
def test_files_that_do_not_fit_are_refused(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        INaturalist(data_root=str(tmp_path))


def test_broken_json_is_named(tmp_path):
    (write(tmp_path) / 'train2018.json').write_text('{"images": [')
    with pytest.raises(ValueError, match=r'train2018\.json is not valid JSON'):
        INaturalist(data_root=str(tmp_path))


@pytest.mark.parametrize('wrong', [dict(year=2020), dict(split='test')])
def test_unknown_releases_are_refused(tmp_path, wrong):
    with pytest.raises(FileNotFoundError, match=r'(test2018|train2020)\.json.*\n.*ROOT/train2018'):
        INaturalist(data_root=str(tmp_path), **wrong)
