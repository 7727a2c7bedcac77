"""JPEGs to load: drawn, so that the same bytes can be had on every machine without a download."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_jpegs(folder: Path, number: int, height: int, width: int, quality: int = 90, blur: float = 0.0) -> Path:
    """Write images whose power falls with frequency as that of photographs does.

    At 500x375 and quality 90 a file takes about 110 KB, as a file of ImageNet does.

    Args:
        folder: where to, made if it is not there.
        number: of images.
        height, width: in pixels.
        quality: of the JPEG.
        blur: standard deviation in pixels, as of the lens of a camera whose pixels are finer than its picture.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1.0
    falloff = np.exp(-2 * (np.pi * blur * frequency)**2) / frequency**1.1
    for i in range(number):
        spectra = np.fft.rfft2(rng.standard_normal((3, height, width))) * falloff
        luma, *chroma = np.fft.irfft2(spectra, s=(height, width))
        planes = [luma, *(0.3 * plane + 0.7 * luma for plane in chroma)]
        img = np.stack([128 + 55 * (plane - plane.mean()) / plane.std() for plane in planes], axis=-1)
        Image.fromarray(img.clip(0, 255).astype(np.uint8)).save(folder / f'{i:05}.jpg', quality=quality)
    return folder
