"""Labelled data of every layout is recognised, split and, where it is at fault, refused with one message."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_mm.datasets.labelled import find_labelled


def save(path: Path, value: int = 99) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f'{i}.png')
    return root


BOX = dict(category_id=3, bbox=[0, 0, 2, 2], area=4, iscrowd=0)


def coco(path: Path, folder: str, names: list[str], **change: object) -> None:
    content = dict(
        images=[dict(id=70 + i, file_name=name, width=6, height=4) for i, name in enumerate(names)],
        annotations=[dict(BOX, id=i, image_id=70 + i) for i in range(len(names))],
        categories=[dict(id=9, name='cup'), dict(id=3, name='ant')])
    for name in names:
        save(path.parent / folder / name)
    path.write_text(json.dumps({**content, **change}))


def label_maps(root: Path, stems: list[str], top: int = 2) -> Path:
    for stem in stems:
        save(root / f'images/{stem}.jpg')
        (root / f'labels/{stem}.png').parent.mkdir(parents=True, exist_ok=True)
        values = np.full((4, 6), 255, np.uint8)
        values[:, :3] = top
        Image.fromarray(values).save(root / f'labels/{stem}.png')
    return root


def test_class_folders_are_split_class_by_class(tmp_path: Path) -> None:
    data = find_labelled(str(class_folders(tmp_path, dict(owl=10, ant=20, bee=3))))
    assert (data.task, data.classes) == ('classification', ('ant', 'bee', 'owl'))
    assert Counter(data.classes[sample.label] for sample in data.test) == dict(ant=4, owl=2, bee=1)
    assert not {s.name for s in data.train} & {s.name for s in data.test} and len(data.train) == 26
    assert find_labelled(str(tmp_path)).test == data.test != find_labelled(str(tmp_path), seed=1).test


def test_given_splits_are_kept(tmp_path: Path) -> None:
    class_folders(tmp_path / 'train', dict(a=3, b=2))
    class_folders(tmp_path / 'val', dict(a=1, b=1))
    data = find_labelled(str(tmp_path))
    assert (len(data.train), sorted(sample.name for sample in data.test)) == (5, ['val/a/0.png', 'val/b/0.png'])
    assert data.split == 'as the data have it'


@pytest.mark.parametrize('side', ['', 'train'])
def test_images_outside_class_folders_are_counted(side: str, tmp_path: Path) -> None:
    for part in ('train', 'val') if side else ('', ):
        class_folders(tmp_path / part, dict(a=2, b=2))
    assert 'not used' not in find_labelled(str(tmp_path)).layout
    save(tmp_path / side / 'stray.png')
    save(tmp_path / 'a' / '.hidden.png')
    assert '(1 images outside of them are not used)' in find_labelled(str(tmp_path)).layout


def test_folders_can_be_kept_together(tmp_path: Path) -> None:
    lines = ['path,label']
    for patient in range(12):
        for i in range(5):
            save(tmp_path / f'p{patient}/{i}.png')
            lines.append(f'p{patient}/{i}.png,{"ill" if i % 2 else "well"}')
    (tmp_path / 'table.csv').write_text('\n'.join(lines))
    data = find_labelled(str(tmp_path), by='folder')
    sides = [{sample.name.split('/')[0] for sample in part} for part in (data.train, data.test)]
    assert not sides[0] & sides[1] and len(sides[1]) >= 2


@pytest.mark.parametrize('head', ['path,label,split', 'Image;Class;set'])
def test_tables(head: str, tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f'x/ü {i}.png')
    mark = max(',;', key=head.count)
    rows = [mark.join((f'x/ü {i}.png', str(10 - i % 2), 'test' if i > 1 else 'train')) for i in range(4)]
    (tmp_path / 'mine.csv').write_text('\n'.join(['\ufeff' + head, *rows]), encoding='utf-8')
    data = find_labelled(str(tmp_path / 'mine.csv'))
    assert data.classes == ('9', '10')  # numbers in the order of numbers
    assert [sample.name for sample in data.test] == ['x/ü 2.png', 'x/ü 3.png']


def test_coco_with_odd_ids_and_folders(tmp_path: Path) -> None:
    coco(tmp_path / 'annotations.json', 'images', [f'{i}.jpg' for i in range(10)])
    data = find_labelled(str(tmp_path))
    assert (data.task, data.classes) == ('detection', ('cup', 'ant'))  # in the order of their ids
    assert (len(data.train), len(data.test)) == (8, 2)
    assert all((Path(data.root) / sample.name).is_file() for sample in data.train + data.test)
    assert {sample.label for sample in data.train + data.test} == set(range(70, 80))


def test_coco_of_two_files(tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    coco(tmp_path / 'annotations/instances_val2017.json', '../val2017', ['b.jpg'])
    coco(tmp_path / 'annotations/instances_train2017.json', '../train2017', ['a.jpg', 'c.jpg'])
    data = find_labelled(str(tmp_path))
    assert [sample.name for sample in data.test] == ['val2017/b.jpg']
    assert [Path(path).name for path in data.annotations] == ['instances_train2017.json', 'instances_val2017.json']


def test_label_maps(tmp_path: Path) -> None:
    data = find_labelled(str(label_maps(tmp_path, [f'{i}' for i in range(5)])))
    assert (data.task, data.classes) == ('segmentation', ('class 0', 'class 1', 'class 2'))
    assert all(Path(s.name).stem == Path(s.label).stem for s in data.train + data.test) and len(data.test) == 1
    (tmp_path / 'classes.txt').write_text('road\nroof\ntree\nlake\n')
    assert find_labelled(str(tmp_path)).classes == ('road', 'roof', 'tree', 'lake')


def test_label_maps_with_given_splits(tmp_path: Path) -> None:
    data = find_labelled(str(label_maps(tmp_path, ['train/a', 'train/b', 'val/a'])))
    assert [sample.name for sample in data.test] == ['images/val/a.jpg']


@pytest.mark.parametrize('below', ['table/photos', 'photos/deep'])
def test_absolute_paths_in_tables_are_found_from_the_root(below: str, tmp_path: Path) -> None:
    """Those in the table's folder are relative to it; others to the common folder of all images."""
    rows = []
    for i in range(10):
        name = f'p{i}/{"ü" * (i % 2)}{i}.png'
        save(tmp_path / below / name)
        rows.append(f'{tmp_path / below / name},{i % 2},{"test" if i > 7 else "train"}')
    (tmp_path / 'table').mkdir(exist_ok=True)
    (tmp_path / 'table/t.csv').write_text('\n'.join(['path,label,split', *rows]))
    data = find_labelled(str(tmp_path / 'table/t.csv'))
    assert all(Path(f'{data.root}/{sample.name}').is_file() for sample in data.train + data.test)
    start = 'photos/' if below == 'table/photos' else ''
    assert [sample.name for sample in data.test] == [f'{start}p8/8.png', f'{start}p9/ü9.png']


@pytest.mark.parametrize('kind', ['tif', 'TIFF', 'bmp'])
def test_label_maps_of_every_lossless_type(kind: str, tmp_path: Path) -> None:
    for path in (label_maps(tmp_path, list('abcde')) / 'labels').iterdir():
        Image.open(path).save(path.with_suffix(f'.{kind}'))
        path.unlink()
    assert find_labelled(str(tmp_path)).task == 'segmentation'


def test_one_class_is_enough_for_detection(tmp_path: Path) -> None:
    coco(tmp_path / 'a.json', 'images', ['a.jpg', 'b.jpg'], categories=[dict(id=3, name='ant')])
    assert 'detection, 1 class: ant' in str(find_labelled(str(tmp_path)))


def test_images_in_one_folder_cannot_be_split_by_folder(tmp_path: Path) -> None:
    label_maps(tmp_path, list('abcde'))
    with pytest.raises(ValueError, match=r'no images \(--split-by folder .* --split-by image.*: training 0, test 5'):
        find_labelled(str(tmp_path), by='folder')
    class_folders(tmp_path / 'classes', dict(a=5, b=5))
    with pytest.raises(ValueError, match=r'without a training image \(--split-by folder .* use --split-by image'):
        find_labelled(str(tmp_path / 'classes'), by='folder')


def empty(root: Path) -> None:
    root.mkdir()


def unlabelled(root: Path) -> None:
    save(root / 'a.png')


def one_class(root: Path) -> None:
    class_folders(root, dict(only=5))


def one_image(root: Path) -> None:
    class_folders(root, dict(ant=5, single=1))


def new_class(root: Path) -> None:
    class_folders(root / 'train', dict(a=2, b=2))
    class_folders(root / 'test', dict(a=2, newt=2))


def two_layouts(root: Path) -> None:
    empty(root)
    coco(root / 'ann.json', 'images', ['a.jpg'])
    (root / 'labels.csv').write_text('path,label\nimages/a.jpg,x\n')


def faulty_table(root: Path) -> None:
    class_folders(root, dict(x=3))
    (root / 't.csv').write_text('path,label\nx/0.png,a\nx/0.png,b\nx/1.png,\ngone.png,a\n')


def other_columns(root: Path) -> None:
    empty(root)
    (root / 't.csv').write_text('when,where\n1,2\n')


def captions(root: Path) -> None:
    empty(root)
    coco(root / 'captions.json', 'images', ['a.jpg'], annotations=[dict(id=1, image_id=70, caption='an ant')])


def images_gone(root: Path) -> None:
    empty(root)
    coco(root / 'ann.json', 'images', ['a.jpg', 'b.jpg'])
    (root / 'images/b.jpg').unlink()


def stray_annotation(root: Path) -> None:
    empty(root)
    coco(root / 'ann.json', 'images', ['a.jpg'], annotations=[dict(BOX, id=1, image_id=5)])


def coco_without_images(root: Path) -> None:
    empty(root)
    coco(root / 'ann.json', 'images', ['a.jpg'])
    (root / 'images/a.jpg').unlink()


def empty_file(root: Path) -> None:
    class_folders(root, dict(a=5, b=5))
    (root / 'a/3.png').write_bytes(b'')


def binary_masks(root: Path) -> None:
    label_maps(root, ['a', 'b'], top=0)


def all_unlabelled(root: Path) -> None:
    label_maps(root, ['a', 'b'], top=255)


def faulty_maps(root: Path) -> None:
    """A large map, two images of one stem, and a file that is not an image."""
    label_maps(root, ['a', 'b', 'c'])
    Image.new('L', (12, 8)).save(root / 'labels/a.png')
    save(root / 'images/b.png')
    (root / 'images/c.jpg').write_bytes(b'not an image')


def maps_without_images(root: Path) -> None:
    label_maps(root, ['a', 'b', 'c'])
    (root / 'images/c.jpg').unlink()
    save(root / 'labels/b.png')  # a colour image


@pytest.mark.parametrize(('make', 'words'), [
    (empty, ['images found: 0', 'PATH/CLASS']),
    (unlabelled, ['no labels (images found: 1)']),
    (one_class, ['  fewer than two classes: only']),
    (one_image, ['classes without a training image', 'at least two images', 'single']),
    (new_class, ['without training images', 'newt']),
    (two_layouts, ['ambiguous', 'a table', 'COCO']),
    (faulty_table, ['  images with two labels: x/0.png', '  rows without', 'line 4', 'gone.png']),
    (other_columns, ["['when', 'where']", 'path']),
    (captions, ['another task than detection', 'caption']),
    (images_gone, ['images are missing', 'b.jpg']),
    (coco_without_images, ['no a.jpg', 'put the images into', 'data/images']),
    (empty_file, ['empty files: a/3.png']),
    (binary_masks, ['fewer than two classes', '255, which is unlabelled', 'write 1 for the foreground']),
    (all_unlabelled, ['fewer than two classes: none']),
    (faulty_maps, ['a.png (12 x 8, image 6 x 4)', 'same stem: b.jpg and b.png', 'be read as images: c.jpg or c.png']),
    (stray_annotation, ["'image_id'", '5']),
    (maps_without_images, ['  label maps without an image: c', 'colour images', 'b.png']),
])
def test_faults_are_named_in_one_message(make: object, words: list[str], tmp_path: Path) -> None:
    make(tmp_path / 'data')
    with pytest.raises(ValueError) as error:
        find_labelled(str(tmp_path / 'data'))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere'):
        find_labelled(str(tmp_path / 'nowhere'))
