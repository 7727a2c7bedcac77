"""Images of another domain than the demo data: plain textures, without objects, grounds or photographs.

    python -m mae_mm.demo_data.elsewhere --out data/elsewhere

docs/own_data.md asks with them what pre-training on other images is worth.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image
from tqdm import trange

from mae_mm.demo_data.painting import expose
from mae_mm.demo_data.textures import TEXTURES, draw_texture

SIDE = 128  # pixels
REPEATS = 2  # of a pattern's unit over the image


def make_texture(rng: Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 RGB: one pattern of two colours, photographed as the scenes of the demo are."""
    y, x = (np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5) * REPEATS
    alpha = draw_texture(str(rng.choice(list(TEXTURES))), x, y, REPEATS / SIDE, rng)[..., None]
    first, second = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    return expose(first + alpha * (second - first), (SIDE, SIDE), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='folder for train/ and val/')
    parser.add_argument('--images', type=int, default=3000, help='training images (default: %(default)s)')
    args = parser.parse_args()
    for split, seed, count in (('train', 0, args.images), ('val', 1, max(1, args.images // 6))):
        (args.out / split).mkdir(parents=True, exist_ok=True)
        for number in trange(count, desc=split, disable=None):
            Image.fromarray(make_texture(default_rng([seed, number]))).save(
                args.out / split / f'{number:05}.jpg', quality=92)


if __name__ == '__main__':
    main()
