"""Layouts of labelled data: class folders, a table, COCO annotations, images with label maps."""

import csv
import os
import unicodedata
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae_mm.datasets.checks import coco
from mae_mm.datasets.find import find_images, on_disk
from mae_mm.datasets.limits import open_image
from mae_mm.datasets.pixel_files import extensions_of, image_size

TRAIN, TEST = ('train', 'training', 'train2017'), ('test', 'val', 'valid', 'validation', 'val2017', 'testing')
IMAGES = ('images', 'imgs', 'image', 'img', 'jpegimages')
ANY = extensions_of('keep')  # of images
MAP_TYPES = ('.png', '.tif', '.tiff', '.bmp')
LABEL_MAPS = ('labels', 'masks', 'annotations', 'label', 'mask', 'segmentationclass', 'gt')
PATH_COLUMNS = ('path', 'file', 'filename', 'file_name', 'image', 'img', 'name')
LABEL_COLUMNS = ('label', 'class', 'category', 'target')
UNLABELLED = 255  # in label maps
SHOWN = 5  # examples of each fault


class Sample(NamedTuple):
    """A labelled image."""

    name: str  # path relative to the root, with '/'
    label: int | str  # number of the class; in segmentation the label map's relative path; in detection the image's id


class Part(NamedTuple):
    """What one reader found; `split` maps names to 'train' or 'test' where the data say so."""

    task: str
    layout: str
    root: Path
    classes: list[str]
    samples: list[Sample]
    split: dict[str, str] = {}
    annotations: tuple[str, ...] = ()


def recognise(path: Path) -> Part:
    if not path.exists():
        raise FileNotFoundError(f'--data {path}: no such file or folder')
    if path.is_file():
        readers = {'.csv': _read_tables, '.tsv': _read_tables, '.txt': _read_tables, '.json': _read_coco}
        if path.suffix.lower() not in readers:
            raise ValueError(f'--data {path}: want a folder, a table (.csv, .tsv) or COCO annotations (.json)')
        return readers[path.suffix.lower()]([path])
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in ('.csv', '.tsv'))
    jsons = sorted(p for folder in (path, path / 'annotations') if folder.is_dir()
                   for p in folder.iterdir() if p.suffix == '.json' and _is_coco(p))
    maps = _label_map_folders(path)
    folders = {side: _class_folders(folder) for side, folder in _sides(path).items()} or {'': _class_folders(path)}
    folders = {} if maps else {side: found for side, found in folders.items() if found}
    found = {'a table': tables, 'COCO annotations': jsons, 'label maps': maps, 'class folders': folders}
    found = {name: what for name, what in found.items() if what}
    if len(found.keys() - {'class folders'}) > 1:  # the images of tables and jsons lie in folders, too
        raise ValueError(
            f'--data {path} is ambiguous: it holds {" and ".join(found)}; give the file that is meant, or move the '
            'others away')
    if tables:
        return _read_tables(tables)
    if jsons:
        return _read_coco(jsons)
    if maps:
        return _read_label_maps(path, *maps)
    if folders:
        return _read_class_folders(path, folders)
    images = sum(1 for _ in find_images(str(path), ANY))
    raise ValueError(
        f'--data {path} has no labels (images found: {images}). Want class folders (PATH/CLASS/*.jpg, also below '
        'train/ and val/), a table PATH/*.csv with the columns path and label, COCO annotations (PATH/*.json), or '
        'PATH/images and PATH/labels with label maps of the same stems')


def _sides(path: Path) -> dict[str, Path]:
    """The folders of a training and a test part, by side, where both are there."""
    by_name = {p.name.lower(): p for p in path.iterdir() if p.is_dir()}
    train, test = (next((by_name[name] for name in names if name in by_name), None) for names in (TRAIN, TEST))
    return dict(train=train, test=test) if train and test else {}


def _class_folders(path: Path) -> dict[str, list[str]]:
    """The images below each folder that has some, relative to `path`."""
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith('.'))
    found = {name: [f'{name}/{image}' for image in find_images(str(path / name), ANY)] for name in names}
    return {name: images for name, images in found.items() if images}


def _read_class_folders(path: Path, sides: dict[str, dict[str, list[str]]]) -> Part:
    classes = sorted({name for folders in sides.values() for name in folders})
    outside = sum(1 for _ in find_images(str(path), ANY)) - sum(map(len, chain.from_iterable(
        folders.values() for folders in sides.values())))
    without = f' ({outside} images outside of them are not used)' if outside else ''
    if set(sides) == {'train', 'test'}:
        if lost := set(sides['test']) - set(sides['train']):
            raise ValueError(f'--data {path}: the test part has classes without training images: {some(lost)}')
        roots = {side: folder.name for side, folder in _sides(path).items()}
        samples, split = [], {}
        for side, folders in sides.items():
            for name, images in folders.items():
                samples += [Sample(f'{roots[side]}/{image}', classes.index(name)) for image in images]
                split.update({f'{roots[side]}/{image}': side for image in images})
        return Part('classification', f'class folders below {roots["train"]}/ and {roots["test"]}/{without}', path,
                    classes, samples, split)
    samples = [Sample(image, classes.index(name)) for folders in sides.values() for name, images in folders.items()
               for image in images]
    return Part('classification', f'class folders{without}', path, classes, samples)


def _read_tables(paths: list[Path]) -> Part:
    """One table, or two that are told apart by their names (train.csv, val.csv)."""
    if len(paths) == 1:
        part = _read_table(paths[0])
    else:
        stems = {path.stem.lower(): path for path in paths}
        train, test = (next((stems[name] for name in names if name in stems), None) for names in (TRAIN, TEST))
        if not train or not test or len(paths) > 2:
            raise ValueError(
                f'--data: {some(p.name for p in paths)}: name one table, or call them train.csv and val.csv')
        parts = {side: _read_table(path) for side, path in dict(train=train, test=test).items()}
        names = sorted({name for part in parts.values() for name in part.classes})
        samples = [sample._replace(label=names.index(part.classes[sample.label]))
                   for part in parts.values() for sample in part.samples]
        split = {sample.name: side for side, part in parts.items() for sample in part.samples}
        part = Part('classification', f'tables {train.name} and {test.name}', train.parent, names, samples, split)
    if not any(os.path.isabs(sample.name) for sample in part.samples):
        return part
    files = {sample.name: os.path.join(os.path.abspath(part.root), sample.name) for sample in part.samples}
    root = os.path.commonpath([os.path.dirname(file) for file in files.values()])
    names = {name: os.path.relpath(file, root).replace(os.sep, '/') for name, file in files.items()}
    return part._replace(
        root=Path(root), samples=[sample._replace(name=names[sample.name]) for sample in part.samples],
        split={names[name]: side for name, side in part.split.items()})


def _read_table(path: Path) -> Part:
    """A table with a header; the names of images outside its folder are absolute."""
    with path.open(newline='', encoding='utf-8-sig', errors='surrogateescape') as file:
        head = file.readline()
        delimiter = max(',;\t', key=head.count)
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [next((header.index(name) for name in names if name in header), None)
               for names in (PATH_COLUMNS, LABEL_COLUMNS, ('split', 'subset', 'set'))]
    if columns[0] is None or columns[1] is None:
        raise ValueError(
            f'{path}: its header is {header}; want a column path ({", ".join(PATH_COLUMNS)}) and a column label '
            f'({", ".join(LABEL_COLUMNS)}), and perhaps split')
    faults, found, split, folder = {}, {}, {}, os.path.abspath(path.parent)
    for number, row in enumerate(rows[1:], 2):
        name, label, side = (row[i].strip() if i is not None and i < len(row) else '' for i in columns)
        if name:
            name = on_disk(os.path.normpath(os.path.join(folder, name)))
            name = name.removeprefix(os.path.join(folder, '')).replace(os.sep, '/')
        if not name or not label:
            faults.setdefault('rows without path or label', []).append(f'line {number}')
        elif found.get(name, label) != label:
            faults.setdefault('images with two labels', []).append(name)
        elif not os.path.isfile(os.path.join(folder, name)):
            faults.setdefault('images that are not there', []).append(name)
        elif side and side.lower() not in (*TRAIN, *TEST):
            faults.setdefault('splits other than train and test', []).append(f'{side} (line {number})')
        else:
            found[name] = label
            if side:
                split[name] = 'train' if side.lower() in TRAIN else 'test'
    if split and len(split) < len(found):
        faults['images without a split'] = sorted(set(found) - set(split))
    refuse(path, faults)
    # Numbers in the order of numbers; isdecimal alone would put 10 before 9.
    classes = sorted(set(found.values()), key=lambda name: (not name.isdecimal(), len(name) * name.isdecimal(), name))
    return Part('classification', f'table {path.name}', path.parent, classes,
                 [Sample(name, classes.index(label)) for name, label in found.items()], split)


def _is_coco(path: Path) -> bool:
    with path.open('rb') as file:  # captions and key points have the same lists; a look into the file is enough here
        start = file.read(1 << 20)
    return b'"images"' in start or b'"annotations"' in start


def _read_coco(paths: list[Path]) -> Part:
    if len(paths) > 2:
        chosen = [path for path in paths if 'instances' in path.stem]
        if len(chosen) not in (1, 2):
            raise ValueError(f'--data: {some(p.name for p in paths)}: name the json that is meant')
        paths = chosen
    if len(paths) == 2:
        train = next((path for path in paths if 'train' in path.stem.lower()), None)
        if train is None:
            raise ValueError(f'--data: which of {some(p.name for p in paths)} is the training part? Name one json, or '
                             'write train into its name')
        paths = [train, next(path for path in paths if path != train)]
    parts = [_read_json(path) for path in paths]
    classes, samples, split = parts[0][0], [], {}
    root = parts[0][2] if len(parts) == 1 else Path(os.path.commonpath([part[2] for part in parts]))
    for side, (names, images, folder) in zip(('train', 'test'), parts, strict=False):
        if names != classes:
            raise ValueError(
                f'{paths[1]}: its categories are {some(names)}, those of {paths[0].name} {some(classes)}')
        below = os.path.relpath(folder, root)
        images = {os.path.normpath(f'{below}/{name}').replace(os.sep, '/'): number for name, number in images.items()}
        samples += [Sample(name, number) for name, number in images.items()]
        split.update(dict.fromkeys(images, side) if len(parts) == 2 else {})
    return Part('detection', f'COCO annotations {some(p.name for p in paths)}', root, classes, samples, split,
                 tuple(map(str, paths)))


def _read_json(path: Path) -> tuple[list[str], dict[str, int], Path]:
    """Category names in the file's order, image ids by file name, and the folder of the images of a COCO file."""
    content = coco.read_annotations(path)
    images, annotations = content['images'], content['annotations']
    if not images or not annotations:
        raise ValueError(f'--data {path} has no {"annotations" if images else "images"}')
    if 'bbox' not in annotations[0]:
        raise ValueError(f'--data {path}: annotations of another task than detection, with {some(annotations[0])}')
    coco.check_annotations(content, path, with_masks=all(one.get('segmentation') for one in annotations))
    folders = [path.parent, path.parent.parent,
               *(base / name for base in (path.parent, path.parent.parent)
                 for name in (*IMAGES, *(n for n in (*TRAIN, *TEST) if n in path.stem.lower())))]
    first = images[0]['file_name']
    folder = next((folder for folder in folders if (folder / first).is_file()), None)
    if folder is None:
        raise ValueError(f'--data {path}: there is no {first} beside it, nor in folders such as images/ or train2017/; '
                         f'put the images into {path.parent / "images"}')
    coco.check_images(images, path, folder)
    return [one['name'] for one in content['categories']], {one['file_name']: one['id'] for one in images}, folder


def _label_map_folders(path: Path) -> list[Path]:
    """The folders of images and label maps, or nothing."""
    by_name = {p.name.lower(): p for p in path.iterdir() if p.is_dir()}
    pair = [next((by_name[name] for name in names if name in by_name), None) for names in (IMAGES, LABEL_MAPS)]
    if None in pair or not any(find_images(str(pair[1]), MAP_TYPES)):
        return []
    return pair


def _read_label_maps(path: Path, images: Path, maps: Path) -> Part:
    """Pairs of the same relative stem; classes are the values that occur, or the lines of classes.txt."""
    by_stem, map_of, twice = {}, {}, []
    for of_stem, names in (by_stem, find_images(str(images), ANY)), (map_of, find_images(str(maps), MAP_TYPES)):
        for name in names:
            stem = unicodedata.normalize('NFC', os.path.splitext(name)[0])
            twice += [f'{of_stem[stem]} and {name}'] if stem in of_stem else []
            of_stem[stem] = name
    faults = {'images without a label map': sorted(set(by_stem) - set(map_of)),
              'label maps without an image': sorted(set(map_of) - set(by_stem)),
              'files of the same stem': twice}
    highest, colour, sizes, unreadable = -1, [], [], []
    for stem in sorted(set(by_stem) & set(map_of)):
        try:
            size, values = image_size(images / by_stem[stem]), np.asarray(open_image(maps / map_of[stem]))
        except OSError:
            unreadable.append(f'{by_stem[stem]} or {map_of[stem]}')
            continue
        if values.shape[1::-1] != size:
            sizes.append(f'{map_of[stem]} ({values.shape[1]} x {values.shape[0]}, image {size[0]} x {size[1]})')
        if values.ndim != 2:
            colour.append(map_of[stem])
            continue
        known = values[values != UNLABELLED]
        highest = max(highest, int(known.max()) if known.size else -1)
    faults['label maps that are colour images (want one number for each pixel)'] = colour
    faults['label maps of another size than the image (width x height)'] = sizes
    faults['files that cannot be read as images'] = unreadable
    if highest == 0:
        faults['fewer than two classes'] = [
            f'0 is the only value except {UNLABELLED}, which is unlabelled; write 1 for the foreground']
    names = path / 'classes.txt'
    classes = names.read_text().split('\n') if names.is_file() else [f'class {i}' for i in range(highest + 1)]
    classes = [name.strip() for name in classes if name.strip()]
    if highest >= len(classes):
        faults[f'values above the {len(classes)} classes of classes.txt'] = [str(highest)]
    refuse(path, faults)
    samples = [Sample(f'{images.name}/{by_stem[stem]}', f'{maps.name}/{map_of[stem]}') for stem in sorted(by_stem)]
    tops = {sample.name: sample.name.split('/')[1].lower() for sample in samples}
    sides = {name: 'train' if top in TRAIN else 'test' for name, top in tops.items() if top in (*TRAIN, *TEST)}
    split = sides if len(sides) == len(samples) and len(set(sides.values())) == 2 else {}
    return Part('segmentation', f'{images.name}/ and label maps in {maps.name}/', path, classes, samples, split)


def refuse(path: Path, faults: dict[str, list[str]]) -> None:
    """One message with every kind of fault, the first examples and, if there are more, how many in all."""
    lines = [f'  {kind}: {some(where)}' for kind, where in faults.items() if where]
    if lines:
        raise ValueError(f'--data {path}:\n' + '\n'.join(lines))


def some(names: object) -> str:
    names = list(names)
    return ', '.join(map(str, names[:SHOWN])) + (f', … ({len(names)})' if len(names) > SHOWN else '')
