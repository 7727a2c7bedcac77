"""The photographs that demo scenes are made of, and random crops of them.

All of them are part of the scikit-image wheel, so nothing is downloaded. Only those whose docstring in
`skimage.data` states public domain or CC0 are listed; the regions that are used show no faces. Each region is cut in
two: the first 65 % of its longer side are for train scenes, the rest for val scenes.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

TRAIN_SHARE = 0.65
LUMA = np.float32([0.299, 0.587, 0.114])
# two orthonormal directions of equal brightness (each sums to zero), so that tints change colour and little else
CHROMA = np.float32([[2, -1, -1], [0, 1, -1]]) / np.sqrt(np.float32([[6], [2]]))


class Photo(NamedTuple):
    """A photograph of the scikit-image wheel."""

    file: str
    material: str  # what it shows; if `is_stuff`, a stuff class of the segmentation layout
    is_stuff: bool  # whether it is used as a background, besides as a texture of objects
    region: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the file: the part that is used
    reduce: int  # integer factor by which the file is shrunk when loaded
    licence: str
    source: str


PHOTOS = (
    Photo('brick.png', 'brick', True, (0, 0, 512, 512), 1, 'CC0', 'CC0Textures, Bricks25'),
    Photo('grass.png', 'grass', True, (0, 0, 512, 512), 1, 'CC0', 'DeviantArt, linolafett, Grass 01'),
    Photo('gravel.png', 'gravel', True, (0, 0, 512, 512), 1, 'CC0', 'CC0Textures, Gravel04'),
    Photo('chelsea.png', 'fur', True, (0, 0, 400, 300), 1, 'CC0', 'Stefan van der Walt, Chelsea the cat'),
    Photo('coffee.png', 'table', True, (0, 0, 600, 400), 1, 'CC0', 'Rachel Michetti, Pikolo Espresso Bar'),
    Photo('rocket.jpg', 'sky', True, (0, 0, 640, 330), 1, 'public domain', 'SpaceX, launch of DSCOVR on Falcon 9'),
    Photo('hubble_deep_field.jpg', 'stars', True, (0, 0, 1000, 872), 1, 'public domain', 'NASA, eXtreme Deep Field'),
    Photo('retina.jpg', 'vessels', True, (210, 210, 1200, 1200), 2, 'CC0', 'Mikael Häggström, Wikimedia Commons'),
    Photo('astronaut.png', 'cloth', False, (0, 225, 512, 512), 1, 'public domain', 'NASA Great Images, Eileen Collins'),
    Photo('camera.png', 'park', False, (290, 0, 512, 512), 1, 'CC0', 'Lav Varshney, photographer on a lawn'),
    Photo('text.png', 'paper', False, (0, 0, 448, 172), 1, 'public domain', 'Wikipedia, Corner.png'),
)
STUFF = tuple(photo for photo in PHOTOS if photo.is_stuff)


@cache
def load_region(photo: Photo, split: str) -> np.ndarray:
    """Read the part of a photograph that one split may use.

    Args:
        photo: an entry of `PHOTOS`.
        split: 'train' or 'val'.

    Returns:
        (H, W, 3) float32 RGB in [0, 1].

    Raises:
        FileNotFoundError: if scikit-image is not installed or does not contain the file.
    """
    try:
        import skimage
    except ImportError as error:
        raise FileNotFoundError(
            'demo scenes use photographs from scikit-image, which is not installed: pip install scikit-image'
        ) from error
    path = Path(skimage.__file__).parent / 'data' / photo.file
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f'{path} is missing: install scikit-image 0.20 or newer from its wheel')
    x0, y0, x1, y1 = photo.region
    image = image[y0:y1, x0:x1, ::-1]
    if photo.reduce > 1:
        image = cv2.resize(image, None, fx=1 / photo.reduce, fy=1 / photo.reduce, interpolation=cv2.INTER_AREA)
    axis = int(image.shape[1] >= image.shape[0])
    border = int(image.shape[axis] * TRAIN_SHARE)
    image = np.split(image, [border], axis)[split == 'val']
    return np.ascontiguousarray(image, dtype=np.float32) / 255


def random_crop(
    photo: Photo, split: str, size: tuple[int, int], zoom: tuple[float, float], rng: Generator
) -> np.ndarray:
    """Cut a rotated and scaled window out of a photograph; beyond its border the photograph is mirrored.

    Args:
        photo: an entry of `PHOTOS`.
        split: 'train' or 'val'.
        size: height and width of the result in pixels.
        zoom: lowest and highest scale, in pixels of the result per pixel of the photograph.
        rng: source of position, scale and angle.

    Returns:
        (H, W, 3) float32 RGB in [0, 1].
    """
    region = load_region(photo, split)
    angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(*np.log(zoom)))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = rng.uniform(size=2) * region.shape[1::-1]
    offset = centre - rotation @ (size[1] / 2, size[0] / 2)
    matrix = np.column_stack([rotation, offset])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(region, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def random_tint(strength: float, rng: Generator) -> np.ndarray:
    """Draw a colour of random hue around white: (3,) float32, 1 on average."""
    hue = rng.uniform(0, 2 * np.pi)
    return 1 + np.float32(strength) * (np.float32([np.cos(hue), np.sin(hue)]) @ CHROMA)


def recolour(
    patch: np.ndarray, brightness: float, contrast: float, tint: np.ndarray, saturation: float, hue: float
) -> np.ndarray:
    """Give a photograph's structure another brightness, contrast and colour.

    Args:
        patch: (H, W, 3) float32 RGB in [0, 1].
        brightness: mean of the result's luma, in [0, 1].
        contrast: standard deviation of the result's luma.
        tint: (3,) colour of the luma, 1 on average.
        saturation: factor on the photograph's own colour.
        hue: angle in radians by which the photograph's own colour turns.

    Returns:
        (H, W, 3) float32 RGB, mostly in [0, 1].
    """
    luma = patch @ LUMA
    turn = np.float32([[np.cos(hue), -np.sin(hue)], [np.sin(hue), np.cos(hue)]])
    colour = (patch - luma[..., None]) @ (np.float32(saturation) * CHROMA.T @ turn @ CHROMA)
    mean, deviation = cv2.meanStdDev(luma)
    gain = contrast / max(float(deviation[0, 0]), 0.03)
    luma = np.float32(brightness) + np.clip((luma - np.float32(mean[0, 0])) * np.float32(gain), -0.5, 0.5)
    return luma[..., None] * tint + colour
