"""Image files in, pictures out: tables of images with headings, captions, tiles. Pictures are (H, W, 3) uint8 RGB."""

import base64
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.find import EXTENSIONS, find_images

GUTTER, HEADING, LINE = 6, 24, 18  # pixels: between images, above the columns, of a line of text


def list_images(paths: Iterable[str], num: int, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """Image files as given, and the first `num` of each folder; prints how many that leaves out."""
    if num < 1:
        raise ValueError(f'--num must be 1 or more, got {num}')
    files = []
    for path in paths:
        names = find_images(path, extensions) if os.path.isdir(path) else []
        found = [os.path.join(path, name) for name in islice(names, num)] if os.path.isdir(path) else [path]
        if not found or not os.path.exists(found[0]):
            raise FileNotFoundError(f'{path}: {"no such file or folder" if found else "no image in this folder"}')
        if more := sum(1 for _ in names):
            print(f'{path}: the first {num} of {num + more} images; use --num N for more')
        files += found
    return files


def check_output(path: str | Path, images: Iterable[str]) -> None:
    """Refuse to write a picture over an image, or into a folder of images (`images`: both)."""
    path = Path(path)
    if not {Path(image).resolve() for image in images}.isdisjoint([path.resolve(), *path.resolve().parents]):
        raise ValueError(
            f'{path} is one of the images, or in a folder of the images: it would overwrite one, or be read as '
            'an image next time; choose another --out (or --panel)')


def resize(image: np.ndarray, side: int, smooth: bool = True) -> np.ndarray:
    """Bring the longer side of an image to `side` pixels; 0 returns it as is. Maps of labels need `smooth=False`."""
    factor = side / max(image.shape[:2]) if side > 0 else 1.0
    size = [max(1, round(length * factor)) for length in image.shape[1::-1]]
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(image).resize(size, resample)) if factor != 1 else image


def render(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Lay images out as a table on white: a row for each image, a column for each heading and its (N, H, W, 3)."""
    n, height, width, _ = next(iter(columns.values())).shape
    size = GUTTER + len(columns) * (width + GUTTER), HEADING + n * (height + GUTTER)
    image = Image.new('RGB', size, 'white')
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    for i, (heading, imgs) in enumerate(columns.items()):
        left = GUTTER + i * (width + GUTTER)
        draw.text((left + width // 2, HEADING // 2), heading, fill='black', font=font, anchor='mm')
        for row, img in enumerate(imgs):
            image.paste(Image.fromarray(img), (left, HEADING + row * (height + GUTTER)))
    return np.array(image)


def caption(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Write lines of text below an image, on white that is as wide as the widest of them."""
    font = ImageFont.load_default(size=14)
    width = max([image.shape[1], *(int(font.getlength(line)) + GUTTER for line in lines)])
    canvas = Image.new('RGB', (width, image.shape[0] + LINE * len(lines) + GUTTER), 'white')
    canvas.paste(Image.fromarray(image), ((width - image.shape[1]) // 2, 0))
    for i, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((GUTTER // 2, image.shape[0] + LINE * i), line, fill='black', font=font)
    return np.array(canvas)


def tile(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of any size, centred in equal cells on white, about as wide as high."""
    height, width = (max(picture.shape[axis] for picture in pictures) + GUTTER for axis in (0, 1))
    columns = min(len(pictures), math.ceil(math.sqrt(len(pictures) * height / width)))
    canvas = np.full((math.ceil(len(pictures) / columns) * height + GUTTER, columns * width + GUTTER, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        top = GUTTER + i // columns * height + (height - GUTTER - h) // 2
        left = GUTTER + i % columns * width + (width - GUTTER - w) // 2
        canvas[top:top + h, left:left + w] = picture
    return canvas


def image_format(path: str | Path) -> str:
    """Pillow's name of the format that a file's extension stands for."""
    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f'{path}: not the extension of an image format; use e.g. {Path(path).with_suffix(".png")}')
    return kind


def save(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture, complete or not at all; its folder is created if needed."""
    kind = image_format(path)
    write_beside(path, lambda partial: Image.fromarray(picture).save(partial, format=kind))


def data_uri(save: Callable, kind: str) -> str:
    """What `save` writes into a file of this format, as text that stands inside the page."""
    save(buffer := io.BytesIO(), format=kind)
    return f'data:image/{kind.replace("svg", "svg+xml")};base64,{base64.b64encode(buffer.getvalue()).decode()}'
