"""Augmentations of MAE's ablation (arXiv:2111.06377, Table 1e)."""

import numpy as np
from torchvision.transforms import ColorJitter as TorchvisionColorJitter

from mae_mm.datasets.transforms import LoadView, flip, resize
from mae_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadRandomCrop(LoadView):
    """Decode, resize, crop a window of fixed size at random, and flip: "crop, fixed size".

    Adds `inputs` ((C, height, width), contiguous), `crop` ((top, left, height, width) in the resized image,
    pixels) and `flip` (bool). Each image takes three draws from NumPy's global generator.

    Args:
        size, interpolation, channels, array_order, reading: see `LoadView`.
        resize: pixels of the image's short side before the crop; by default in proportion to 256 for 224.
        flip_prob: probability of a horizontal flip, in [0, 1].
    """

    def __init__(
            self, size: int | tuple[int, int], resize: int | None = None, flip_prob: float = 0.5,
            interpolation: str = 'bicubic', channels: str = 'rgb', array_order: str = 'bgr', **reading: object,
            ) -> None:
        super().__init__(size, interpolation, channels, array_order, resize, **reading)
        self.resize, self.flip_prob = resize or round(max(self.size) * 256 / 224), flip_prob

    def __call__(self, results: dict) -> dict:
        img = self.load(results)
        factor = self.resize / min(img.shape[:2])
        whole = tuple(max(round(side * factor), self.resize) for side in img.shape[:2])
        view = resize(img, whole, self.interpolation)
        noise = np.random.random_sample(3)
        height, width = self.size
        top, left = (int(u * (w - s + 1)) for u, w, s in zip(noise, whole, self.size, strict=False))
        view = view[:, top:top + height, left:left + width]
        mirrored = bool(noise[2] < self.flip_prob)
        results.update(
            inputs=(flip(view) if mirrored else view).contiguous(), crop=(top, left, height, width), flip=mirrored)
        return results


@TRANSFORMS.register_module()
class ColorJitter:
    """torchvision's ColorJitter on `inputs` (3, H, W) uint8; draws from torch's global generator."""

    def __init__(
            self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1) -> None:
        self.jitter = TorchvisionColorJitter(brightness, contrast, saturation, hue)

    def __call__(self, results: dict) -> dict:
        results['inputs'] = self.jitter(results['inputs'])
        return results

    def __repr__(self) -> str:
        return repr(self.jitter)
