"""Images of six bands and 16 bits whose classes no three bands tell apart; docs/demo_data.md describes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from tqdm import trange

from mae_mm.demo_data.annotations import coco_annotation
from mae_mm.demo_data.generate import GENERATOR, read_manifest, write_manifest
from mae_mm.demo_data.scenes import Instance

CLASSES = ('oak', 'pine', 'maize', 'reed')
COUNTS = dict(train=1200, val=300)
SIDE = 64  # pixels
BASE, NUISANCE, TEXTURE, SIGNAL, NOISE = 20000, 3500, 700, 150, 20  # of 65535; deviations, but for BASE and SIGNAL
VERSION = 1


class Scene(NamedTuple):
    """An image with its annotations."""

    image: np.ndarray  # (SIDE, SIDE, 6) uint16
    label: int  # of the largest object
    instances: tuple[Instance, ...]
    labels: np.ndarray  # (SIDE, SIDE) uint8: 0 is the ground, then the classes


def directions() -> tuple[np.ndarray, np.ndarray]:
    """Two orthogonal spaces of spectra, (6, 3) each: illumination, moisture and haze; and what the classes differ in.

    The rows of the first are the diagonals of an icosahedron, so that any three bands see the whole of its space: each
    class could be any other one under another light. Six bands see three directions without any light.
    """
    golden = (1 + 5**0.5) / 2
    rows = [[0, 1, golden], [0, -1, golden], [1, golden, 0], [-1, golden, 0], [golden, 0, 1], [-golden, 0, 1]]
    light = np.array(rows) / np.linalg.norm(rows, axis=0)
    return light, np.linalg.svd(light)[0][:, 3:]


LIGHT, MATTER = directions()
# The ground is in the middle of a tetrahedron of the classes.
SPECTRA = SIGNAL * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) @ MATTER.T  # (5, 6)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """One scene; it depends on the arguments only. Its label is the index modulo the number of classes."""
    rng = default_rng([seed, list(COUNTS).index(split), index])
    owner = np.zeros((SIDE, SIDE), np.int32)  # 0 is the ground
    classes = [0, 1 + index % len(CLASSES), *rng.integers(1, 1 + len(CLASSES), rng.integers(0, 3)).tolist()]
    for number in range(len(classes) - 1, 0, -1):  # the first object is the largest, and before the others
        owner[_blob(rng, rng.uniform(14, 20) if number == 1 else rng.uniform(7, 10))] = number
    light = np.empty((SIDE, SIDE, 3))
    for number in range(len(classes)):
        texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), rng.uniform(1, 4))
        where = owner == number
        across = rng.normal(size=3)
        light[where] = rng.normal(0, NUISANCE, 3) + TEXTURE * (
            texture / texture.std() * (across / np.linalg.norm(across))[:, None, None]).transpose(1, 2, 0)[where]
    labels = np.array(classes, np.uint8)[owner]
    image = BASE + light @ LIGHT.T + SPECTRA[labels] + rng.normal(0, NOISE, (SIDE, SIDE, 6))
    instances = tuple(
        Instance(classes[number] - 1, owner == number, False) for number in range(1, len(classes))
        if (owner == number).sum() >= 20)
    return Scene(image.round().clip(0, 65535).astype(np.uint16), classes[1] - 1, instances, labels)


def _blob(rng: Generator, radius: float) -> np.ndarray:
    """(SIDE, SIDE) bool: a smooth shape of about that radius, in pixels, inside the image."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = sum(rng.uniform(0, 0.15) * np.sin(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    outline = radius * (1 + waves)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    center = rng.uniform(radius, SIDE - radius, 2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.round(center + outline).astype(np.int32)], 1)
    return mask.astype(bool)


def make_multiband_data(out: str | Path, seed: int = 0, say: Callable[[str], None] = print) -> Path:
    """Write all scenes, once: `{train,val}/*.npy`, `labels/`, `annotations/` (COCO) and `meta/` (lists with labels).

    Raises:
        ValueError: if `out` contains other files.
    """
    out = Path(out)
    settings = dict(
        generator=GENERATOR, kind='multiband', version=VERSION, seed=seed, **COUNTS, categories=list(CLASSES),
        pixel_classes=['ground', *CLASSES])
    manifest = read_manifest(out)
    if manifest and manifest.get('complete') and all(manifest.get(key) == value for key, value in settings.items()):
        say(f'{out} already has these images: nothing to do')
        return out
    if manifest and manifest.get('kind') != 'multiband':
        raise ValueError(f'{out} has other demo data: choose another --out')
    shutil.rmtree(out, ignore_errors=True)
    for folder in ('meta', 'annotations', *(f'{name}{split}' for split in COUNTS for name in ('', 'labels/'))):
        (out / folder).mkdir(parents=True)
    write_manifest(out, settings, complete=False)
    for split, count in COUNTS.items():
        images, annotations, lines = [], [], []
        for index in trange(count, desc=split, unit='scene', disable=None):
            scene, name = make_scene(seed, split, index), f'{index:05}'
            np.save(out / split / f'{name}.npy', scene.image)
            cv2.imwrite(str(out / 'labels' / split / f'{name}.png'), scene.labels)
            images.append(dict(id=index, file_name=f'{name}.npy', width=SIDE, height=SIDE))
            for instance in scene.instances:
                annotations.append(dict(coco_annotation(instance), id=len(annotations) + 1, image_id=index))
            lines.append(f'{name}.npy {scene.label}\n')
        categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
        (out / 'annotations' / f'instances_{split}.json').write_text(
            json.dumps(dict(images=images, annotations=annotations, categories=categories)))
        (out / 'meta' / f'{split}.txt').write_text(''.join(lines))
    write_manifest(out, settings, complete=True)
    say(f'{out}: {COUNTS["train"]} train and {COUNTS["val"]} val images of {SIDE} px, 6 bands, 16 bits')
    return out
