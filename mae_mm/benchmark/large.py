"""One drawn scene of six bands and 16 bits, as large as you like: tiles found and read, and its segmentation.

    python -m mae_mm.benchmark.large make scene.tif --side 20000
    python -m mae_mm.benchmark.large tiles scene.tif
    python -m mae_mm.benchmark.large segment scene.tif CONFIG CHECKPOINT --out maps --tiles 256 --overlap 0.25

`make` also writes scene.truth.tif; `segment` passes options on to tools/predict.py, and compares map and truth.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from numpy.random import default_rng
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from tqdm import trange

from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.pixel_files import GDAL
from mae_mm.datasets.tiled_images import TiledImages
from mae_mm.demo_data.multiband import SIDE, make_scene
from mae_mm.engine.loops.batches import SeededSamples
from mae_mm.paths import ROOT

SCENES = 400  # drawn, then turned and mirrored at random
ROWS = 512  # pixels written at a time
EMPTY = 0.1  # share of the sides of the triangle without data
CROPS = 300


def make(path: str, side: int) -> None:
    """A mosaic of the multi-band demo's held-out scenes, with a corner without data, and its label map."""
    scenes = [make_scene(0, 'val', i) for i in trange(SCENES, desc='scenes', unit='scene')]
    images, labels = np.stack([one.image for one in scenes]), np.stack([one.labels for one in scenes])
    columns, rng = -(-side // SIDE), default_rng(0)
    common = dict(
        driver='GTiff', height=side, width=side, tiled=True, blockxsize=256, blockysize=256, compress='zstd',
        bigtiff='if_safer', crs='EPSG:32633', transform=from_origin(399960, 5500020, 10, 10))

    def write(partial: Path) -> None:
        with (rasterio.open(partial, 'w', count=6, dtype='uint16', nodata=0, zstd_level=1, **common) as scene,
              rasterio.open(truth, 'w', count=1, dtype='uint8', nodata=255, **common) as known):
            for top in trange(0, side, ROWS, desc=str(path), unit='strip'):
                rows = min(ROWS, side - top)
                cells = rng.integers([SCENES, 4, 2], size=(-(-rows // SIDE), columns, 3))
                strip, answer = (np.concatenate([np.concatenate([
                    np.rot90(bank[i][::1 - 2 * mirrored], turns) for i, turns, mirrored in row], 1)
                    for row in cells.tolist()])[:rows, :side] for bank in (images, labels))
                empty = np.add.outer(np.arange(top, top + rows), np.arange(side)) < EMPTY * side
                strip, answer = strip * ~empty[..., None], np.where(empty, np.uint8(255), answer)
                window = (top, top + rows), (0, side)
                scene.write(strip.transpose(2, 0, 1), window=window)
                known.write(answer, 1, window=window)
        with rasterio.open(partial, 'r+') as scene:
            scene.build_overviews([2, 4, 8, 16, 32], Resampling.nearest)

    truth = truth_of(path)
    with rasterio.Env(**GDAL | dict(GDAL_CACHEMAX=1024)):  # a block written in parts is written several times
        write_beside(path, write)


def truth_of(path: str) -> Path:
    return Path(path).with_suffix('.truth.tif')


def tiles(path: str, size: int) -> None:
    """How long tiles take to find, and crops of 224 px to load, in one process."""
    folder, name = os.path.split(os.path.abspath(path))
    load = dict(type='mae_mm.LoadRandomResizedCrop', size=224, scale=(0.2, 1.0), dtype='keep', bands=6)
    start = clocks()
    samples = SeededSamples(TiledImages(folder, size, names=[name], pipeline=[load]))
    print(f'{len(samples):,} tiles of {size} px found in', took(start))
    chosen, start = default_rng(0).permutation(len(samples))[:CROPS].tolist(), clocks()
    for i in chosen:
        samples[i, i]
    print(f'{len(chosen)} random crops of 224 px loaded in', took(start))


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def took(start: tuple[float, float]) -> str:
    return '{:.1f} s, {:.1f} s of CPU'.format(*(now - then for now, then in zip(clocks(), start, strict=True)))


def segment(path: str, config: str, checkpoint: str, out: str, options: list[str]) -> None:
    """Run tools/predict.py; its time, its peak of memory, the georeference, and the pixels that are right."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, ROOT / 'tools/predict.py', config, checkpoint, path, '--out', out, *options], check=True)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    right = total = 0
    with (rasterio.open(path) as image, rasterio.open(Path(out, Path(path).name)) as found,
          rasterio.open(truth_of(path)) as known):
        same = (image.crs, image.transform, image.shape) == (found.crs, found.transform, found.shape)
        for top in range(0, image.height, ROWS):
            window = (top, min(top + ROWS, image.height)), (0, image.width)
            labels, truth = found.read(1, window=window), known.read(1, window=window)
            same &= np.array_equal(labels == found.nodata, truth == known.nodata)
            right, total = right + ((labels == truth) & (truth < 255)).sum(), total + (truth < 255).sum()
        print(f'{image.height:,} x {image.width:,} pixels in {seconds:.0f} s, '
              f'{used.ru_utime + used.ru_stime:.0f} s of CPU, peak {used.ru_maxrss / 1024:.0f} MiB; CRS, '
              f'transform, size and no-data {"are the same" if same else "DIFFER"}: {found.crs}, {found.bounds}; '
              f'{right / total:.1%} of the pixels are right')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['make', 'tiles', 'segment'])
    parser.add_argument('scene')
    parser.add_argument('model', nargs='*', metavar='CONFIG CHECKPOINT')
    parser.add_argument('--side', type=int, default=20000, help='pixels (default: 20000)')
    parser.add_argument('--size', type=int, default=512, help='pixels of a tile (default: 512)')
    parser.add_argument('--out', default='work_dirs/large', help='folder of the map (default: work_dirs/large)')
    args, options = parser.parse_known_args()
    if args.what == 'make':
        make(args.scene, args.side)
    elif args.what == 'tiles':
        tiles(args.scene, args.size)
    else:
        segment(args.scene, *args.model, args.out, options)


if __name__ == '__main__':
    main()
