"""Data sets and transforms: from files to batches."""

from mae_mm.datasets.augmentations import ColorJitter, LoadRandomCrop
from mae_mm.datasets.buckets import BucketBatchSampler
from mae_mm.datasets.cache import ImageCache
from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.image_tar import ImageTar
from mae_mm.datasets.inaturalist import INaturalist
from mae_mm.datasets.listed_label_maps import ListedLabelMaps
from mae_mm.datasets.places365 import Places365
from mae_mm.datasets.tiled_images import TiledImages
from mae_mm.datasets.transforms import LoadImage, LoadRandomResizedCrop, LoadResizeCenterCrop

__all__ = [
    'BucketBatchSampler', 'ColorJitter', 'DecodeError', 'INaturalist', 'ImageCache', 'ImageFolder', 'ImageTar',
    'ListedLabelMaps', 'LoadImage', 'LoadRandomCrop', 'LoadRandomResizedCrop', 'LoadResizeCenterCrop', 'Places365',
    'TiledImages', 'decode',
]
