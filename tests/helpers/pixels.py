"""Image files of more than 8 bits or three bands."""

from pathlib import Path

import numpy as np
import pydicom
import rasterio
import tifffile
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from rasterio.errors import NotGeoreferencedWarning

NAMES = ('blue', 'green', 'red', 'nir', 'swir1', 'swir2')


def ramp(bands: int = 6, height: int = 40, width: int = 48, dtype: str = 'uint16') -> np.ndarray:
    """(H, W, C): every value differs from its neighbours by one step of 16 bits."""
    return np.arange(height * width * bands).reshape(height, width, bands).astype(dtype)


def write_geotiff(path: Path, img: np.ndarray, names: tuple[str, ...] = NAMES, **options: object) -> None:
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'w', driver='GTiff', height=img.shape[0], width=img.shape[1], count=img.shape[2],
                           dtype=img.dtype, **options) as file:
            file.write(img.transpose(2, 0, 1))
            file.descriptions = names[:img.shape[2]]


def write_stack(path: Path, img: np.ndarray, **options: object) -> None:
    """An OME-TIFF: a page for each channel."""
    tifffile.imwrite(path, img.transpose(2, 0, 1), ome=True, metadata=dict(axes='CYX'), **options)


def write_dicom(path: Path, img: np.ndarray, **tags: object) -> None:
    """One frame of one sample, (H, W, 1), 16 bits."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    file = pydicom.Dataset()
    file.file_meta = meta
    file.Rows, file.Columns, file.SamplesPerPixel = *img.shape[:2], 1
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, int(img.dtype.kind == 'i')
    file.PhotometricInterpretation = 'MONOCHROME2'
    file.PixelData = img.tobytes()
    for key, value in tags.items():
        setattr(file, key, value)
    file.save_as(path, enforce_file_format=True)


def write_png(path: Path, img: np.ndarray) -> None:
    """Gray or RGB."""
    import cv2
    cv2.imwrite(str(path), img[..., ::-1])


WRITERS = {  # extension, bands, writer
    'geotiff': ('tif', 6, write_geotiff),
    'tiled geotiff': ('tif', 6, lambda path, img: write_geotiff(
        path, img, tiled=True, blockxsize=16, blockysize=16, compress='deflate', predictor=2)),
    'big-endian tiff': ('tif', 3, lambda path, img: tifffile.imwrite(path, img, byteorder='>', photometric='rgb')),
    'ome-tiff': ('ome.tif', 6, write_stack),
    'big-endian ome-tiff': ('ome.tif', 6, lambda path, img: write_stack(path, img, byteorder='>')),
    'npy': ('npy', 6, np.save),
    'big-endian npy': ('npy', 6, lambda path, img: np.save(path, img.astype('>u2'))),
    'fortran npy': ('npy', 6, lambda path, img: np.save(path, np.asfortranarray(img))),
    'dicom': ('dcm', 1, write_dicom),
    'gray png': ('png', 1, lambda path, img: Image.fromarray(img[..., 0]).save(path)),
    'rgb png': ('png', 3, write_png),
    'pgm': ('pgm', 1, lambda path, img: path.write_bytes(
        b'P5 %d %d 65535\n' % img.shape[1::-1] + img.astype('>u2').tobytes())),
}
