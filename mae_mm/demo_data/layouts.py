"""Names of a scene in the folder layout of each data set, and the lists and annotation files of these layouts."""

import hashlib
import json
import os
import shutil
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mae_mm.demo_data.annotations import coco_annotation
from mae_mm.demo_data.categories import CATEGORIES, PIXEL_CLASSES
from mae_mm.demo_data.scenes import encode_jpeg, make_scene

FOLDERS = ('imagenet', 'flat', 'coco', 'ade', 'inat2018', 'places365')
VAL_ID_OFFSET = 500_000  # COCO and iNaturalist ids are unique over both splits
ADE = 'ade/ADEChallengeData2016'
LICENCE = dict(id=1, name='CC0 1.0 / public domain', url='https://creativecommons.org/publicdomain/zero/1.0/')
INFO = dict(year=2026, version='1', description='mae_mm demo data', contributor='mae_mm', url='', date_created='')


class SceneKey(NamedTuple):
    """Identifies a scene."""

    seed: int
    split: str  # 'train' or 'val'
    index: int

    @property
    def label(self) -> int:
        return self.index % len(CATEGORIES)

    @property
    def image_id(self) -> int:
        return self.index + 1 + VAL_ID_OFFSET * (self.split == 'val')


class SceneRecord(NamedTuple):
    """What the annotation files say about a scene."""

    key: SceneKey
    height: int
    width: int
    annotations: list[dict]  # as of `coco_annotation`
    pixel_counts: np.ndarray  # (1 + number of pixel classes,) int64: pixels of each label, 0 = unlabelled first


def class_folder(label: int) -> str:
    """Name the ImageNet folder of a category, so that alphabetical order is label order."""
    return f'{label:02d}_{CATEGORIES[label].name}'


def places_category(label: int) -> str:
    """Name a category as Places365 does: '/s/star_stripes'."""
    name = CATEGORIES[label].name
    return f'/{name[0]}/{name}'


def inat_path(key: SceneKey) -> str:
    """Name an image as iNaturalist 2018 does: 'train_val2018/Star/0/<32 hexadecimal digits>.jpg'."""
    digest = hashlib.md5(repr(tuple(key)).encode(), usedforsecurity=False).hexdigest()
    return f'train_val2018/{CATEGORIES[key.label].shape.capitalize()}/{key.label}/{digest}.jpg'


def places_line(key: SceneKey) -> str:
    """Name an image as Places365's lists do; those of the train split start with a slash."""
    if key.split == 'val':
        return f'Places365_val_{key.index + 1:08d}.jpg'
    return f'{places_category(key.label)}/{key.index // len(CATEGORIES) + 1:08d}.jpg'


def ade_stem(key: SceneKey) -> str:
    """Name an image as ADE20K does, with the folder of its split and without suffix."""
    folder = dict(train='training', val='validation')[key.split]
    return f'{folder}/ADE_{key.split}_{key.index + 1:08d}'


def image_paths(key: SceneKey) -> list[str]:
    """List every name of the scene's JPEG file, relative to the output folder."""
    places = dict(train=('data_large_standard', 'data_256_standard'), val=('val_large', 'val_256'))[key.split]
    return [
        f'imagenet/{key.split}/{class_folder(key.label)}/{key.split}_{key.index:08d}.jpg',
        f'flat/{key.split}/{key.index:08d}.jpg',
        f'coco/{key.split}2017/{key.image_id:012d}.jpg',
        f'{ADE}/images/{ade_stem(key)}.jpg',
        f'inat2018/{inat_path(key)}',
        *(f'places365/{folder}/{places_line(key).lstrip("/")}' for folder in places),
    ]


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_scene(out: Path, key: SceneKey) -> SceneRecord:
    """Make a scene, write its picture under all its names and its label map; return what the annotation files need."""
    scene = make_scene(*key)
    first, *others = (out / path for path in image_paths(key))
    first.parent.mkdir(parents=True, exist_ok=True)
    first.write_bytes(encode_jpeg(scene))
    for path in others:
        link(first, path)
    label_map = out / ADE / 'annotations' / f'{ade_stem(key)}.png'
    label_map.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode('.png', scene.pixel_labels)
    label_map.write_bytes(data.tobytes())
    counts = np.bincount(scene.pixel_labels.ravel(), minlength=len(PIXEL_CLASSES) + 1)
    return SceneRecord(key, *scene.size, [coco_annotation(instance) for instance in scene.instances], counts)


def palette() -> list[list[int]]:
    """Colour each pixel class: RGB in 0..255; objects bright, materials pale."""
    objects = [hsv_to_rgb(i / len(CATEGORIES), 0.9, 1 - 0.35 * (i % 2)) for i in range(len(CATEGORIES))]
    count = len(PIXEL_CLASSES) - len(CATEGORIES)
    materials = [hsv_to_rgb(i / count, 0.3, 0.85 - 0.3 * (i % 2)) for i in range(count)]
    return [[round(255 * channel) for channel in colour] for colour in objects + materials]


def write_json(path: Path, content: dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def write_coco(out: Path, split: str, records: list[SceneRecord]) -> None:
    """Write instances_{split}2017.json."""
    images, annotations = [], []
    for record in records:
        image_id = record.key.image_id
        file_name = f'{image_id:012d}.jpg'
        images.append(dict(id=image_id, file_name=file_name, height=record.height, width=record.width, license=1))
        for position, annotation in enumerate(record.annotations):
            annotations.append(dict(annotation, image_id=image_id, id=100 * image_id + position))
    categories = [dict(id=i, name=c.name, supercategory=c.shape) for i, c in enumerate(CATEGORIES, 1)]
    content = dict(info=INFO, licenses=[LICENCE], images=images, annotations=annotations, categories=categories)
    write_json(out / f'coco/annotations/instances_{split}2017.json', content)


def write_inat(out: Path, split: str, records: list[SceneRecord]) -> None:
    """Write {split}2018.json and categories.json."""
    ranks = ('kingdom', 'phylum', 'class', 'order', 'family')
    categories = [
        dict(id=i, name=c.name, supercategory=c.shape.capitalize(), **dict.fromkeys(ranks, 'Demo'), genus=c.shape)
        for i, c in enumerate(CATEGORIES)
    ]
    images = [
        dict(
            id=record.key.image_id,
            file_name=inat_path(record.key),
            width=record.width,
            height=record.height,
            license=1,
            rights_holder='mae_mm demo data',
        )
        for record in records
    ]
    annotations = [
        dict(id=record.key.image_id, image_id=record.key.image_id, category_id=record.key.label) for record in records
    ]
    content = dict(info=INFO, images=images, licenses=[LICENCE], annotations=annotations, categories=categories)
    write_json(out / f'inat2018/{split}2018.json', content)
    write_json(out / 'inat2018/categories.json', categories)


def write_places(out: Path, split: str, records: list[SceneRecord]) -> None:
    """Write places365_{train_standard,val}.txt and categories_places365.txt."""
    name = dict(train='places365_train_standard.txt', val='places365_val.txt')[split]
    write_lines(out / 'places365' / name, [f'{places_line(r.key)} {r.key.label}' for r in records])
    categories = [f'{places_category(label)} {label}' for label in range(len(CATEGORIES))]
    write_lines(out / 'places365/categories_places365.txt', categories)


def write_ade(out: Path, records: dict[str, list[SceneRecord]]) -> None:
    """Write ADE20K's list of classes and of scene categories, and classes.json with names and palette."""
    counts = {split: np.array([record.pixel_counts[1:] for record in records[split]]) for split in records}
    ratio = sum(count.sum(0) for count in counts.values())
    ratio = ratio / ratio.sum()
    lines = ['Idx\tRatio\tTrain\tVal\tStuff\tName']
    for i, name in enumerate(PIXEL_CLASSES):
        train, val = ((counts[split][:, i] > 0).sum() for split in ('train', 'val'))
        lines.append(f'{i + 1}\t{ratio[i]:.4f}\t{train}\t{val}\t{int(i >= len(CATEGORIES))}\t{name}')
    write_lines(out / ADE / 'objectInfo150.txt', lines)
    scenes = [
        f'{Path(ade_stem(record.key)).name} {CATEGORIES[record.key.label].name}'
        for split in ('train', 'val')
        for record in records[split]
    ]
    write_lines(out / ADE / 'sceneCategories.txt', scenes)
    write_json(out / ADE / 'classes.json', dict(classes=list(PIXEL_CLASSES), palette=palette()))
