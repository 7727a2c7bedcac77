"""Data sets and transforms of pre-training: from files to uint8 batches."""

from .augmentations import ColorJitter, LoadRandomCrop
from .cache import ImageCache
from .decode import DecodeError, decode
from .image_folder import ImageFolder
from .image_tar import ImageTar
from .inaturalist import INaturalist
from .places205 import Places205
from .places365 import Places365
from .transforms import LoadRandomResizedCrop, LoadResizeCenterCrop

__all__ = [
    'ColorJitter', 'DecodeError', 'INaturalist', 'ImageCache', 'ImageFolder', 'ImageTar', 'LoadRandomCrop',
    'LoadRandomResizedCrop', 'LoadResizeCenterCrop', 'Places205', 'Places365', 'decode',
]
