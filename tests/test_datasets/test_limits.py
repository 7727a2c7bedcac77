"""Files that ask for a program, for more memory than an image takes, or never end."""

import io
import os
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.images import encode
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from mae_mm.datasets import DecodeError, ImageTar, LoadRandomResizedCrop, decode
from mae_mm.datasets.checks.images import what_is_wrong
from mae_mm.datasets.checks.label_maps import find_faults
from mae_mm.datasets.find import EXTENSIONS
from mae_mm.datasets.jpeg import croppable_size, reducible_size
from mae_mm.datasets.limits import (
    FORMATS,
    MAX_BYTES,
    header_size,
    jpeg_size,
    leaves_folder,
    open_image,
    read_file,
    upright_size,
)

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(mark) (w) file closefile
%%EOF
"""
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
HIDING = [b'\xff', b'\xff' * 99, b'\xff\x01', b'\xff\xd0', b'\xff\xd7\xff\x01', b'stray', b'\xff\x00',
          b'\xff\xfe\x00\x02', b'\xff\xfe\x00\x00', b'\xff\xe1\x00\x01']


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `gs` that leaves a mark, in the place of the real one; gives the mark's path."""
    mark, program = tmp_path / 'mark', tmp_path / 'bin' / 'gs'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {mark}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)  # where Pillow remembers what it found
    return mark


def test_postscript_is_never_run(ghostscript: Path, tmp_path: Path) -> None:
    path = tmp_path / 'picture.jpg'
    path.write_bytes(EPS)
    for channels in ('rgb', 'gray', 'unchanged'):
        with pytest.raises(DecodeError, match='not an image, begins with'):
            decode(EPS, channels)
    with pytest.raises(DecodeError, match=r'cannot read .*picture\.jpg: not an image'):
        LoadRandomResizedCrop(8)(dict(img_path=str(path)))
    assert 'not an image' in what_is_wrong(str(path))
    with pytest.raises(OSError, match='cannot identify'):
        upright_size(path)
    assert [kind for kind, _ in find_faults(path, path, np.ones(256, bool))] == ['unreadable file']
    assert not ghostscript.exists()
    with pytest.raises(OSError):
        Image.open(path).load()  # the fault itself, without the list of formats
    assert ghostscript.exists()


def test_nothing_opens_images_past_the_list() -> None:
    found = subprocess.run(['grep', '-rnE', r'Image\.open\(', 'mae_mm'], cwd=ROOT, text=True, capture_output=True)
    places = {line.split(':')[0] for line in found.stdout.splitlines() if '.py:' in line}
    # report.py embeds pictures of its own run; embed.py is timm's side of a benchmark
    assert places <= {'mae_mm/datasets/limits.py', 'mae_mm/transfer/report.py', 'mae_mm/benchmark/embed.py'}


@pytest.mark.parametrize('extension', EXTENSIONS)
def test_what_the_extensions_promise_is_read(extension: str) -> None:
    form = Image.registered_extensions()[extension]
    assert form in FORMATS
    img = RGB.convert('L') if extension == '.pgm' else RGB
    data = encode(img, form)
    assert decode(data).shape == (3, 40, 48)
    assert open_image(io.BytesIO(data)).format in FORMATS


def test_pictures_of_phones_are_read() -> None:
    assert decode(encode(RGB, 'MPO', save_all=True, append_images=[RGB])).shape == (3, 40, 48)


def jpeg(hidden_by: bytes, size: tuple[int, int] | None = None) -> bytes:
    """A JPEG with bytes before the segment of its (height, width), which may lie."""
    data = encode(RGB, 'JPEG')
    place = data.index(b'\xff\xc0')
    lie = struct.pack('>HH', *size) if size else data[place + 5:place + 9]
    return data[:place] + hidden_by + data[place:place + 5] + lie + data[place + 9:]


@pytest.mark.parametrize('hidden_by', HIDING, ids=repr)
def test_a_jpegs_size_is_found_where_libjpeg_finds_it(hidden_by: bytes) -> None:
    assert jpeg_size(jpeg(hidden_by)) == (40, 48)
    np.testing.assert_array_equal(decode(jpeg(hidden_by)), decode(encode(RGB, 'JPEG')))
    bomb = jpeg(hidden_by, (20_000, 20_000))
    assert croppable_size(bomb) is None and reducible_size(bomb, (8, 8)) is None
    with pytest.raises(DecodeError, match=r'20000 x 20000 pixels, .* decompression bomb'):
        decode(bomb)


def test_entropy_coded_data_is_no_header() -> None:
    data = encode(RGB, 'JPEG')
    scan = data.index(b'\xff\xda')
    assert jpeg_size(data[:data.index(b'\xff\xc0')] + data[scan:] + data) is None
    assert jpeg_size(b'\xff\xd8' + b'\xff' * 10**6) is None  # in linear time


@pytest.mark.parametrize('hidden_by', [b'', b'\0\0\0\x04abCd\1\2\3\4'])
def test_a_size_that_is_not_found_is_left_to_pillow(hidden_by: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpng reads chunks that it does not know before the header."""
    hidden_by += struct.pack('>I', zlib.crc32(hidden_by[4:])) if hidden_by else b''
    data = encode(RGB, 'PNG')
    data = data[:8] + hidden_by + data[8:]
    assert header_size(data) == (None if hidden_by else (40, 48))
    decode(data)
    large = bytearray(data)
    place = large.index(b'IHDR')
    large[place + 4:place + 12] = struct.pack('>II', 60_000, 60_000)
    large[place + 17:place + 21] = struct.pack('>I', zlib.crc32(large[place:place + 17]))
    with pytest.raises(DecodeError, match='bomb'):
        decode(bytes(large))
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, '_open', lambda self: 1 / 0)
    with pytest.raises(DecodeError, match='division'):
        decode(b'\xff\xd8\xff\xd9' + encode(RGB, 'JPEG'))


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / 'huge.jpg'
    path.touch()
    os.truncate(path, 300 << 30)
    with pytest.raises(DecodeError, match=rf'huge\.jpg: 322,122,547,200 bytes, more than {MAX_BYTES:,}'):
        LoadRandomResizedCrop(8)(dict(img_path=str(path)))
    assert 'more than' in what_is_wrong(str(path))


def test_a_member_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        member = tarfile.TarInfo('huge.jpg')
        member.size = 300 << 30
        tar.fileobj.write(member.tobuf())
    os.truncate(tmp_path / 'a.tar', (300 << 30) + 2048)
    dataset = ImageTar(str(tmp_path / 'a.tar'), [LoadRandomResizedCrop(8)], test_mode=True)
    with pytest.raises(DecodeError, match='more than'):
        dataset[0]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'x.jpg')
    (tmp_path / 'y.jpg').symlink_to('/dev/zero')
    for name in ('x.jpg', 'y.jpg'):
        with pytest.raises(OSError, match='not a regular file'):
            read_file(str(tmp_path / name))
        assert what_is_wrong(str(tmp_path / name)) == 'not a regular file'


@given(st.text(max_size=12) | st.from_regex(r'[./\\a]{1,9}', fullmatch=True))
@example('../a.jpg')
@example('a/../../b.jpg')
@example('/etc/passwd')
@example('a\\..\\b.jpg')
@example('C:/a.jpg')
@example('a\0.jpg')
def test_a_listed_name_stays_in_its_folder(name: str) -> None:
    if not leaves_folder(name):
        joined = os.path.normpath(os.path.join('/data/root', name))
        assert joined == '/data/root' or joined.startswith('/data/root/')
        assert '\0' not in name
