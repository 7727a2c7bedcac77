"""Images as arrays, files and tensors."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def photo(height: int = 120, width: int = 160, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint8: smooth waves with noise on top."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / rng.uniform(3, 20) + y / rng.uniform(3, 20)) for _ in range(channels)], -1)
    return (128 + 90 * waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)


def class_folders(root: Path, count: int = 40) -> Path:
    """Images of two classes that brightness tells apart, as many of each: ROOT/light/0.png, ROOT/dark/1.png, …"""
    for number in range(count):
        path = root / f'{"dark" if number % 2 else "light"}/{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 100, (32, 40, 3), dtype=np.uint8)
        path.write_bytes(encode(Image.fromarray(pixels + np.uint8(150 * (1 - number % 2))), 'PNG'))
    return root


def encode(img: Image.Image, form: str, **options) -> bytes:
    """The content of a file of an image."""
    img.save(file := BytesIO(), form, **options)
    return file.getvalue()


def pixels(img: Image.Image) -> Tensor:
    """(C, H, W) of a Pillow image."""
    array = np.array(img)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
