"""DICOM files, by pydicom."""

import math
from io import BytesIO

import numpy as np

from mae_mm.datasets.decode import DecodeError
from mae_mm.datasets.stored import Stored, check_size, package, whole


def _rescale(header: object) -> tuple[float, float]:
    """Slope and intercept of a DICOM file; those of the frames must be one."""
    groups = [*header.get('SharedFunctionalGroupsSequence', ()), *header.get('PerFrameFunctionalGroupsSequence', ())]
    places = [header, *(one for group in groups for one in group.get('PixelValueTransformationSequence', ()))]
    found = {(float(one.RescaleSlope), float(one.RescaleIntercept or 0)) for one in places
             if one.get('RescaleSlope') is not None}
    if len(found) > 1:
        raise DecodeError(f'frames with different rescale slopes and intercepts: {sorted(found)[:3]}')
    return found.pop() if found else (1.0, float(header.get('RescaleIntercept') or 0))


def open_dicom(data: bytes, level: int = 0) -> Stored:
    """Values after the rescale slope and intercept; frames are bands; larger is brighter (MONOCHROME1 is inverted)."""
    pydicom = package('pydicom')
    if b'1.2.840.10008.1.2.1.99' in data:
        raise DecodeError('a deflated DICOM file, whose size cannot be known before it is inflated')
    header = pydicom.dcmread(BytesIO(data))
    frames, samples = int(header.get('NumberOfFrames') or 1), int(header.SamplesPerPixel)
    height, width = int(header.Rows), int(header.Columns)
    palette = header.PhotometricInterpretation == 'PALETTE COLOR'
    check_size(height, width, frames * (3 if palette else samples), max(int(header.BitsAllocated) // 8, 1))
    array = pydicom.pixels.pixel_array(header)
    array = pydicom.pixels.apply_color_lut(array, header) if palette else array
    array = array[None] if frames == 1 else array  # (frames, H, W) or (frames, H, W, samples)
    array = np.moveaxis(array, 0, 2).reshape(height, width, -1)
    slope, intercept = _rescale(header)
    if (slope, intercept) != (1, 0):
        array = array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    center, width = (np.ravel(header.get(f'Window{key}', 0))[:1].astype(float) for key in ('Center', 'Width'))
    padding = header.get('PixelPaddingValue') if samples == 1 and not palette else None
    marks = [center - width / 2, center + width / 2, np.ravel(np.nan if padding is None else padding).astype(float)]
    marks[2] = np.float32(marks[2]) * np.float32(slope) + np.float32(intercept)
    inverted = header.PhotometricInterpretation == 'MONOCHROME1'
    if inverted:
        ends = -1 if int(header.PixelRepresentation) else 2**int(header.BitsStored) - 1  # their sum
        ends = ends if (slope, intercept) == (1, 0) else np.float32(ends * slope + 2 * intercept)
        array, marks = ends - array, [ends - mark for mark in marks]
    low, high, padding = (float(mark[0]) for mark in marks)
    return whole(
        array, nodata=None if math.isnan(padding) else padding,
        window=(min(low, high), max(low, high)) if width[0] > 0 else None, inverted=float(ends) if inverted else None)
