"""Every format of more than 8 bits or three bands: all bits arrive, and what is broken is an error that names it."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.images import encode, photo
from helpers.pixels import NAMES, PYRAMIDS, WRITERS, blocks, destroy, ramp, write_dicom, write_geotiff, write_stack
from PIL import Image

from mae_mm.datasets import DecodeError, LoadImage, stored
from mae_mm.datasets.pixel_files import open_stored, source_size
from mae_mm.datasets.pixels import Reading


def read(path: Path, channels: str = 'unchanged', **reading: object) -> np.ndarray:
    return LoadImage(channels, **reading)(dict(img_path=str(path)))['img']


@pytest.mark.parametrize('kind', WRITERS)
@pytest.mark.parametrize('by', ['path', 'content'])
def test_a_16_bit_ramp_arrives_with_16_bit_steps(kind: str, by: str, tmp_path: Path) -> None:
    extension, bands, write = WRITERS[kind]
    img, path = ramp(bands), tmp_path / f'a.{extension}'
    write(path, img)
    results = dict(img_path=str(path))
    out = LoadImage()(dict(results, read=path.read_bytes) if by == 'content' else results)
    assert out['img'].dtype == np.uint16 and out['img'].dtype.isnative and out['img_shape'] == (40, 48)
    np.testing.assert_array_equal(out['img'], img)


@pytest.mark.parametrize('kind', WRITERS)
def test_a_window_is_that_part_of_the_image(kind: str, tmp_path: Path) -> None:
    extension, bands, write = WRITERS[kind]
    write(tmp_path / f'a.{extension}', ramp(bands))
    opened = Reading('keep').open(str(tmp_path / f'a.{extension}'), 'unchanged', 'a')
    assert opened.shape == (40, 48, bands) and opened.dtype == np.uint16
    np.testing.assert_array_equal(opened[5:20, 7:31], ramp(bands)[5:20, 7:31])


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'int16', 'float16', 'float32', 'float64'])
@pytest.mark.parametrize('extension, write', [
    ('npy', np.save), ('tif', lambda path, img: tifffile.imwrite(path, img.transpose(2, 0, 1)))])
def test_types(dtype: str, extension: str, write, tmp_path: Path) -> None:
    img = (ramp() % 100).astype(dtype) / (4 if 'float' in dtype else 1)
    write(tmp_path / f'a.{extension}', img.astype(dtype))
    out = read(tmp_path / f'a.{extension}')
    assert out.dtype == ('float32' if 'float' in dtype else dtype)
    np.testing.assert_array_equal(out, img.astype(out.dtype))


@pytest.mark.parametrize('dtype', ['uint32', 'int64', 'complex64', 'bool', 'U3'])
def test_types_that_would_be_cut_are_refused(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.zeros((4, 4), dtype))
    with pytest.raises(DecodeError, match=r'a\.npy.*(pixels of|array of)'):
        read(tmp_path / 'a.npy')


def test_a_window_of_a_geotiff_is_read_without_the_rest(tmp_path: Path) -> None:
    """The other tiles are destroyed, and nobody notices."""
    write_geotiff(tmp_path / 'a.tif', ramp(1, 64, 64), tiled=True, blockxsize=16, blockysize=16, compress='deflate')
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        starts, sizes = file.pages[0].dataoffsets, file.pages[0].databytecounts
    data = bytearray((tmp_path / 'a.tif').read_bytes())
    for start, size in list(zip(starts, sizes, strict=True))[1:]:
        data[start:start + size] = bytes(size)
    (tmp_path / 'a.tif').write_bytes(data)
    opened = Reading('keep').open(str(tmp_path / 'a.tif'), 'unchanged', 'a.tif')
    np.testing.assert_array_equal(opened[0:16, 0:16], ramp(1, 64, 64)[:16, :16])
    with pytest.raises(DecodeError, match=r'cannot read a\.tif: '):
        opened[:, :]


def test_a_window_of_a_stack_is_read_without_the_rest(tmp_path: Path) -> None:
    """Of a file, and of its content; the other bands are not touched, either."""
    write_stack(tmp_path / 'a.ome.tif', ramp(3, 64, 64), tile=(16, 16), compression='zlib')
    destroy(tmp_path / 'a.ome.tif', (slice(1, 2), slice(2, 4)))  # of the first page
    for source in (str(tmp_path / 'a.ome.tif'), (tmp_path / 'a.ome.tif').read_bytes()):
        opened = Reading('keep').open(source, 'unchanged', 'a.ome.tif')
        np.testing.assert_array_equal(opened[16:32, 32:64], ramp(3, 64, 64)[16:32, 32:64])
        with pytest.raises(DecodeError, match=r'cannot read a\.ome\.tif: '):
            opened[:, :]
        others = Reading('keep', bands=[3, 2]).open(source, 'unchanged', 'a.ome.tif')
        np.testing.assert_array_equal(others[:, :], ramp(3, 64, 64)[..., [2, 1]])


def test_a_pgm_of_12_bits_and_a_ppm_of_16_keep_them(tmp_path: Path) -> None:
    for kind, bands, highest in ((5, 1, 4095), (6, 3, 65535)):
        img = ramp(bands) & np.uint16(highest)
        header = b'P%d\n# made by hand\n48 40\n%d\n' % (kind, highest)
        (tmp_path / 'a').write_bytes(header + img.astype('>u2').tobytes())
        np.testing.assert_array_equal(read(tmp_path / 'a'), img)


def test_files_that_an_ome_tiff_names_are_not_opened(tmp_path: Path) -> None:
    """A pipe, for which opening would wait."""
    import os
    os.mkfifo(tmp_path / 'pipe')
    img, path = ramp(2), tmp_path / 'a.ome.tif'
    planes = ''.join(
        f'<TiffData IFD="0" FirstC="{i}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{i}</UUID></TiffData>'
        for i, name in enumerate(('a.ome.tif', f'../{tmp_path.name}/pipe')))
    tifffile.imwrite(path, img.transpose(2, 0, 1), metadata=None, description=(
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image><Pixels '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="48" SizeY="40" SizeC="2" SizeZ="1" SizeT="1"><Channel Name="a"/>'
        f'<Channel Name="b"/>{planes}</Pixels></Image></OME>'))
    np.testing.assert_array_equal(read(path), img)
    assert open_stored(str(path)).names == ()  # its pages need not be those channels


def test_channels_of_an_ome_tiff_are_taken_by_name(tmp_path: Path) -> None:
    def write(**options: object) -> str:
        tifffile.imwrite(path, img.transpose(2, 0, 1), metadata=dict(axes='CYX', **options), ome=True)
        return str(path)

    img, path = ramp(3), tmp_path / 'a.ome.tif'
    picked = Reading('keep', bands=['GFP', 'DAPI'])
    opened = picked.open(write(Channel=dict(Name=['DAPI', 'GFP', 'Cy5'])), 'unchanged', 'a.ome.tif')
    assert opened.names == ('GFP', 'DAPI')
    np.testing.assert_array_equal(opened[:, :], img[..., [1, 0]])
    with pytest.raises(DecodeError, match=r"'GFP'.*have no names, only numbers 1 … 3"):
        picked.open(write(), 'unchanged', 'a.ome.tif')
    img = ramp(1)
    assert open_stored(write(Channel=dict(Name=['DAPI']))).names == ('DAPI', )


def test_bits_of_a_12_bit_scanner_and_a_palette(tmp_path: Path) -> None:
    img = ramp(1) % 4096
    write_geotiff(tmp_path / 'a.tif', img, nbits=12)
    np.testing.assert_array_equal(read(tmp_path / 'a.tif'), img)
    picture = Image.fromarray(photo()).convert('P')
    for form in ('TIFF', 'PNG', 'GIF'):
        (tmp_path / 'p').write_bytes(encode(picture, form))
        np.testing.assert_array_equal(read(tmp_path / 'p'), np.array(picture.convert('RGB')), err_msg=form)


def test_pictures_of_8_bits_are_read_as_ever(tmp_path: Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(encode(Image.fromarray(photo()), 'JPEG', quality=90))
    assert np.array_equal(read(tmp_path / 'a.jpg'), read(tmp_path / 'a.jpg', 'rgb', dtype='uint8'))


def test_pages_of_a_volume_and_a_pyramid(tmp_path: Path) -> None:
    """Channels and planes are bands; smaller copies of the image are not."""
    img = ramp(6)
    tifffile.imwrite(tmp_path / 'a.tif', img.transpose(2, 0, 1).reshape(2, 3, 40, 48), metadata=dict(axes='ZCYX'))
    np.testing.assert_array_equal(read(tmp_path / 'a.tif'), img)
    with tifffile.TiffWriter(tmp_path / 'b.ome.tif') as file:
        file.write(img.transpose(2, 0, 1), subifds=1, metadata=dict(axes='CYX'))
        file.write(img[::2, ::2].transpose(2, 0, 1), subfiletype=1)
    np.testing.assert_array_equal(read(tmp_path / 'b.ome.tif'), img)


def test_arrays_with_the_bands_first_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', ramp(6).transpose(2, 0, 1))
    with pytest.raises(DecodeError, match=r'a\.npy: array of \(6, 40, 48\), which looks like \(C, H, W\)'):
        read(tmp_path / 'a.npy')
    np.save(tmp_path / 'b.npy', np.zeros((16, 16, 60), np.uint16))
    assert read(tmp_path / 'b.npy').shape == (16, 16, 60)


def huge_tiff(side: int, tile: int) -> bytes:
    """A few bytes that promise a TIFF of any size."""
    tifffile.imwrite(file := io.BytesIO(), np.zeros((32, 32), np.uint16), tile=(16, 16))
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        for name, value in dict(ImageWidth=side, ImageLength=side, TileWidth=tile, TileLength=tile).items():
            tag = tif.pages[0].tags[name]
            data[tag.valueoffset:tag.valueoffset + tag.valuebytecount] = value.to_bytes(tag.valuebytecount, 'little')
    return bytes(data)


def endless_tiff() -> bytes:
    """The page after the first one is the first one."""
    tifffile.imwrite(file := io.BytesIO(), ramp(1)[..., 0])
    data = bytearray(file.getvalue())
    end = 10 + 12 * int.from_bytes(data[8:10], 'little')
    data[end:end + 4] = (8).to_bytes(4, 'little')
    return bytes(data)


def npy_header(shape: tuple[int, ...], dtype: str = '<u2') -> bytes:
    np.lib.format.write_array_header_1_0(file := io.BytesIO(), dict(descr=dtype, fortran_order=False, shape=shape))
    return file.getvalue() + bytes(100)


def small_file(write) -> bytes:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        write(path := Path(folder) / 'a.tif')
        return path.read_bytes()


HOSTILE = {
    'npy bomb': npy_header((10**6, 10**6)),
    'npy overflow': npy_header((2**40, 2**40, 2**40)),
    'npy of objects': npy_header((3, 3), '|O'),
    'truncated npy': npy_header((30, 40)),
    'tiff bomb': huge_tiff(65_000, 16),
    'tile bomb': huge_tiff(65_000, 64_000),
    'truncated tiff': small_file(lambda path: write_geotiff(path, ramp()))[:-3000],
    'missing page': small_file(lambda path: write_stack(path, ramp()))[:-3000],
    'truncated page': small_file(lambda path: tifffile.imwrite(path, ramp().transpose(2, 0, 1)))[:-1000],
    'endless pages': endless_tiff(),
    'dicom bomb': small_file(lambda path: write_dicom(path, ramp(1), Rows=60_000, Columns=60_000)),
    'dicom of many frames': small_file(lambda path: write_dicom(path, ramp(1), NumberOfFrames=10**9)),
    'truncated dicom': small_file(lambda path: write_dicom(path, ramp(1)))[:-1000],
    'deflated dicom': bytes(128) + b'DICM' + bytes(2000) + b'1.2.840.10008.1.2.1.99' + bytes(100),
    'empty npy': npy_header((0, 10)),
    'empty npy of 8 bits': npy_header((10, 0), '|u1'),
    'tiff of many tags': b'II+\0\x08\0\0\0' + b''.join(n.to_bytes(8, 'little') for n in (16, 10**5)) + bytes(3 * 10**6),
    'pgm bomb': b'P5 60000 60000 65535\n' + bytes(100),
    'truncated pgm': b'P5 60 60 65535\n' + bytes(100),
    'pgm in digits': b'P2 1 1 65535\n7\n',
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_files_are_errors_that_take_no_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / 'bad'
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(DecodeError, match=r'cannot read .*bad: (?!.*MemoryError)'):
        read(path)
    with pytest.raises(DecodeError, match='cannot read'):
        LoadImage()(dict(img_path='in a tar', read=lambda: HOSTILE[kind]))


def test_limits_hold_for_what_is_read_at_once(tmp_path: Path, monkeypatch) -> None:
    """A file may be larger than any image, if only windows of it are read."""
    write_geotiff(tmp_path / 'a.tif', ramp(), tiled=True, blockxsize=16, blockysize=16)
    monkeypatch.setattr(stored, 'MAX_PIXELS', 900)
    opened = Reading('keep').open(str(tmp_path / 'a.tif'), 'unchanged', 'a.tif')
    assert opened[0:30, 0:30].shape == (30, 30, 6)
    with pytest.raises(DecodeError, match='40 x 48 pixels of 6 bands'):
        opened[:, :]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os
    os.mkfifo(tmp_path / 'a.tif')
    with pytest.raises(DecodeError, match='not a regular file'):
        read(tmp_path / 'a.tif')


@pytest.mark.parametrize('name, kind, extra', [
    ('rasterio', 'geotiff', 'pixels'), ('tifffile', 'ome-tiff', 'pixels'), ('pydicom', 'dicom', 'pixels'),
    ('openslide', 'slide', 'slides')])
def test_a_missing_package_is_named_and_is_not_a_bad_image(
        name: str, kind: str, extra: str, tmp_path: Path, monkeypatch) -> None:
    extension, *_, write = {**WRITERS, **PYRAMIDS}[kind]
    write(path := tmp_path / f'a.{extension}', blocks() if kind == 'slide' else ramp(WRITERS[kind][1]))
    monkeypatch.setitem(__import__('sys').modules, name, None)
    with pytest.raises(ValueError, match=rf'a\.{extension}: {name} is not installed.*\.\[{extra}\]') as found:
        read(path)
    assert not isinstance(found.value, DecodeError)


def test_size_of_a_file_and_of_a_member_of_a_tar(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', ramp()[:10])
    sources = (dict(img_path=str(tmp_path / 'a.npy')), dict(read=(tmp_path / 'a.npy').read_bytes))
    assert [source_size(source) for source in sources] == [(ramp().shape[1], 10)] * 2
    data = encode(Image.new('L', (1, 1)), 'PNG')
    header = data[12:16] + (20_000).to_bytes(4, 'big') * 2 + data[24:29]
    (tmp_path / 'bomb.png').write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + data[33:])
    with pytest.raises(OSError, match='decompression bomb'):  # an image that is replaced, not the end
        source_size(dict(img_path=str(tmp_path / 'bomb.png')))


def test_names_of_bands(tmp_path: Path) -> None:
    write_geotiff(tmp_path / 'a.tif', ramp())
    assert open_stored(str(tmp_path / 'a.tif')).names == NAMES
    np.testing.assert_array_equal(read(tmp_path / 'a.tif', bands=['nir', 'red', 1]), ramp()[..., [3, 2, 0]])
    with pytest.raises(DecodeError, match=r"a\.tif: no band 'B12' among 6: 'blue', 'green'"):
        read(tmp_path / 'a.tif', bands=['red', 'B12'])
    with pytest.raises(DecodeError, match=r'a\.tif: no band 7 among 6'):
        read(tmp_path / 'a.tif', bands=[7])
    np.save(tmp_path / 'a.npy', ramp())
    with pytest.raises(DecodeError, match=r"no band 'red' among 6, which have no names, only numbers 1 … 6"):
        read(tmp_path / 'a.npy', bands=['red'])
    with pytest.raises(DecodeError, match=r'a\.tif: an image of 6 bands, and bands=13'):
        read(tmp_path / 'a.tif', bands=13)
