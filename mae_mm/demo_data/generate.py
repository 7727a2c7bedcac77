"""Write the whole demo data set, once."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from mae_mm.demo_data.categories import CATEGORIES, PIXEL_CLASSES
from mae_mm.demo_data.layouts import (
    FOLDERS,
    SceneKey,
    SceneRecord,
    write_ade,
    write_coco,
    write_inat,
    write_places,
    write_scene,
)

VERSION = 2  # increase it with every change of what is written
GENERATOR = 'mae_mm.demo_data'
MANIFEST = 'demo_data.json'
PER_CATEGORY = dict(train=250, val=42)  # scenes at scale 1


def split_counts(scale: float) -> dict[str, int]:
    """Count the scenes of each split: the same number of every category.

    Args:
        scale: factor on the train split; below 1 it shrinks the val split as well.

    Raises:
        ValueError: if scale is not positive.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f'scale must be a positive number, got {scale}: 1 makes about 3,000 train images')
    train = max(1, round(PER_CATEGORY['train'] * scale))
    val = max(1, round(PER_CATEGORY['val'] * min(scale, 1)))
    return dict(train=train * len(CATEGORIES), val=val * len(CATEGORIES))


def read_manifest(out: Path) -> dict | None:
    """Read the manifest of a folder; None if the folder is empty or missing.

    Raises:
        ValueError: if the generator did not make the folder.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        manifest = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        manifest = {}
    if manifest.get('generator') != GENERATOR:
        raise ValueError(
            f'{out} was not made by this generator (it has no valid {MANIFEST}): choose another --out'
        )
    return manifest


def write_manifest(out: Path, settings: dict, complete: bool) -> None:
    """Write the settings atomically."""
    names = dict(categories=[c.name for c in CATEGORIES], pixel_classes=PIXEL_CLASSES)
    content = {**names, **settings, 'complete': complete}
    draft = out / f'{MANIFEST}.draft'
    draft.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(draft, out / MANIFEST)


def is_current(out: Path, manifest: dict, settings: dict) -> bool:
    """Whether a folder contains complete data of these settings."""
    same = manifest.get('complete') is True and all(manifest.get(name) == value for name, value in settings.items())
    return same and all((out / folder).is_dir() for folder in FOLDERS)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    cv2.setNumThreads(1)


def write_scenes(out: Path, keys: list[SceneKey], workers: int) -> list[SceneRecord]:
    """Write scenes in parallel; the result does not depend on the number of workers."""
    task = partial(write_scene, out)
    bar = partial(tqdm, total=len(keys), desc='demo data', unit='scene', mininterval=0.5)
    if workers == 1:
        return list(bar(map(task, keys)))
    pool = ProcessPoolExecutor(workers, get_context('spawn'), _start_worker)
    try:
        return list(bar(pool.map(task, keys, chunksize=8)))
    finally:
        pool.shutdown(cancel_futures=True)


def make_demo_data(
    out: str | Path, scale: float = 1, seed: int = 0, workers: int = 1, say: Callable[[str], None] = print
) -> Path:
    """Write scenes in the layouts of ImageNet, COCO, ADE20K, iNaturalist 2018, Places365 and as a flat folder.

    Complete data of the same settings are kept. Data of other settings, or of an interrupted run, are replaced.

    Args:
        out: folder to write to; must be empty, absent or made by this function.
        scale: factor on the number of train images; 1 makes 3,000.
        seed: of all random numbers.
        workers: number of processes, at least 1.
        say: receives messages for the user.

    Returns:
        The folder.

    Raises:
        ValueError: if `out` contains other files, or an argument is out of range.
    """
    out = Path(out)
    counts = split_counts(scale)
    if seed < 0 or workers < 1:
        raise ValueError(f'seed must be >= 0 and workers >= 1, got {seed} and {workers}')
    settings = dict(generator=GENERATOR, version=VERSION, seed=seed, **counts)
    manifest = read_manifest(out)
    if manifest is not None and is_current(out, manifest, settings):
        say(f'{out} already has {counts["train"]} train and {counts["val"]} val images of seed {seed}: nothing to do')
        return out
    if manifest is not None:
        say(f'{out} contains an interrupted run or other settings: replacing it')
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out, settings, complete=False)
    for folder in FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)

    keys = [SceneKey(seed, split, index) for split, count in counts.items() for index in range(count)]
    written = write_scenes(out, keys, workers)
    records = {split: [record for record in written if record.key.split == split] for split in counts}
    for split in counts:
        for write in (write_coco, write_inat, write_places):
            write(out, split, records[split])
    write_ade(out, records)
    write_manifest(out, settings, complete=True)
    say(f'{out}: {counts["train"]} train and {counts["val"]} val images in {len(FOLDERS)} layouts')
    return out
