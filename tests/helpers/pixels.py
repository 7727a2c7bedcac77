"""Image files of more than 8 bits or three bands."""

import warnings
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
    'ppm': ('ppm', 3, lambda path, img: path.write_bytes(
        b'P6 %d %d 65535\n' % img.shape[1::-1] + img.astype('>u2').tobytes())),
}


def blocks(height: int = 500, width: int = 700, bands: int = 3, side: int = 4) -> np.ndarray:
    """(H, W, C) uint8 noise of squares of `side` pixels: smaller copies have the same values."""
    noise = np.random.default_rng(0).integers(0, 200, (height // side, width // side, bands), np.uint8)
    return noise.repeat(side, 0).repeat(side, 1)


def write_geotiff_pyramid(path: Path, img: np.ndarray, **options: object) -> None:
    write_geotiff(path, img, tiled=True, blockxsize=64, blockysize=64, compress='deflate', **options)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'r+') as file:
            file.build_overviews([2, 4])


def write_tiff_pyramid(path: Path, img: np.ndarray, nested: bool = False, ome: bool = False) -> None:
    """Full size, a half and a quarter, in pages that follow or below the first; of OME-TIFF a page for each band."""
    with tifffile.TiffWriter(path, ome=ome) as file:
        for i in range(3):
            level = img[::2**i, ::2**i]
            options = dict(tile=(64, 64), compression='zlib', photometric='minisblack' if ome else 'rgb')
            if nested:
                options['subifds'] = 2 * (i == 0)
            if i == 0:
                options['metadata'] = dict(axes='CYX') if ome else None
            file.write(level.transpose(2, 0, 1) if ome else level, subfiletype=int(i > 0), **options)


PYRAMIDS = {  # extension, writer; levels 1, 2 and 4 times smaller
    'geotiff': ('tif', write_geotiff_pyramid),
    'tiff': ('tif', write_tiff_pyramid),
    'nested tiff': ('tif', lambda path, img: write_tiff_pyramid(path, img, nested=True)),
    'ome-tiff': ('ome.tif', lambda path, img: write_tiff_pyramid(path, img, nested=True, ome=True)),
    'slide': ('svs', write_tiff_pyramid),
}


def destroy(path: Path, keep: tuple[slice, slice] = (slice(0), slice(0))) -> None:
    """Overwrite the blocks of a TIFF's first page but those in these rows and columns of blocks."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        starts, sizes = page.dataoffsets, page.databytecounts
        number = np.arange(len(starts)).reshape(-(-page.imagelength // page.tilelength), -1)
    data = bytearray(path.read_bytes())
    for i in {*number.ravel().tolist()} - {*number[keep].ravel().tolist()}:
        data[starts[i]:starts[i] + sizes[i]] = bytes(sizes[i])
    path.write_bytes(data)
