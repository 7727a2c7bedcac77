"""DICOM: values of the modality, windows, inversion, palettes, frames."""

from pathlib import Path

import numpy as np
import pytest
from helpers.pixels import ramp, write_dicom
from pydicom import Dataset

from mae_mm.datasets import DecodeError, LoadImage, stored
from mae_mm.datasets.pixel_files import open_stored


def read(path: Path, **reading: object) -> np.ndarray:
    return LoadImage(**reading)(dict(img_path=str(path)))['img']


def test_dicom_values_are_those_of_its_modality(tmp_path: Path) -> None:
    img = ramp(1) - np.uint16(5)  # 0 and 65531 first
    write_dicom(tmp_path / 'a.dcm', img, RescaleSlope=0.5, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=100)
    np.testing.assert_array_equal(read(tmp_path / 'a.dcm'), img * np.float32(0.5) - 1024)
    window = read(tmp_path / 'a.dcm', window='file')
    assert (window.min(), window.max()) == (-50, 50) and np.array_equal(window, read(
        tmp_path / 'a.dcm', window=(0, 100)))
    write_dicom(tmp_path / 'b.dcm', img, PhotometricInterpretation='MONOCHROME1', PixelPaddingValue=7)
    assert np.array_equal(read(tmp_path / 'b.dcm', nodata=None), 65535 - img)
    assert np.array_equal(np.isnan(read(tmp_path / 'b.dcm')), img == 7)
    cut = read(tmp_path / 'b.dcm', nodata=None, window=(1000, 400))  # of the file's values, before they are inverted
    assert np.array_equal(cut, 65535 - np.clip(img, 800, 1200))
    signed = (ramp(1) - 900).astype(np.int16)
    write_dicom(tmp_path / 'c.dcm', signed, PixelPaddingValue=-900)
    out = read(tmp_path / 'c.dcm')
    assert np.isnan(out[0, 0]) and np.array_equal(out[0, 1:], signed[0, 1:])


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    lut = np.arange(256, dtype=np.uint16)
    tags = {f'{name}PaletteColorLookupTable{part}': value for i, name in enumerate(('Red', 'Green', 'Blue'))
            for part, value in (('Descriptor', [256, 0, 16]), ('Data', (lut * (i + 1)).tobytes()))}
    img = ramp(1) % 256
    write_dicom(tmp_path / 'a.dcm', img, PhotometricInterpretation='PALETTE COLOR', **tags)
    np.testing.assert_array_equal(read(tmp_path / 'a.dcm'), img * np.uint16([1, 2, 3]))


def group(**values: float) -> Dataset:
    """A functional group with a rescale transformation."""
    rescale, group = Dataset(), Dataset()
    for key, value in values.items():
        setattr(rescale, key, value)
    group.PixelValueTransformationSequence = [rescale]
    return group


def test_the_rescaling_of_an_enhanced_file_stands_with_its_frames(tmp_path: Path) -> None:
    img, path = ramp(1), tmp_path / 'a.dcm'
    some, others = group(RescaleSlope=2, RescaleIntercept=-1024), group(RescaleSlope=3, RescaleIntercept=0)
    for tags in (dict(SharedFunctionalGroupsSequence=[some]), dict(PerFrameFunctionalGroupsSequence=[some, some])):
        write_dicom(path, img, **tags)
        np.testing.assert_array_equal(read(path), img * np.float32(2) - 1024)
    write_dicom(path, img, PerFrameFunctionalGroupsSequence=[some, others])
    with pytest.raises(DecodeError, match=r'a\.dcm: frames with different rescale slopes'):
        read(path)
    write_dicom(path, img, RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read(path), img)


def test_a_bit_is_a_byte_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = np.zeros((40, 3, 1), np.uint16)
    write_dicom(tmp_path / 'a.dcm', packed, BitsAllocated=1, BitsStored=1, HighBit=0, Columns=48)
    assert read(tmp_path / 'a.dcm').shape == (40, 48, 1)
    monkeypatch.setattr(stored, 'MAX_BYTES', 40 * 48 - 1)
    with pytest.raises(DecodeError, match='decompression bomb'):
        open_stored(str(tmp_path / 'a.dcm'))  # before anything is decoded
