"""Image files as people have them, and data sets with some that nobody can read."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.reliability import ALONE, build, restore_signals, save_images, tiny_config, train
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mae_mm.datasets import DecodeError, ImageFolder, decode
from mae_mm.datasets.checks.images import check_files, list_files, report, what_is_wrong
from mae_mm.datasets.limits import leaves_folder
from mae_mm.engine.loops.batches import ReadableSamples, SeededSamples
from mae_mm.stopping import TrainingStopped

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
EXIF = Image.Exif()
EXIF[0x0112] = 6


def encode(img: Image.Image, form: str, **options) -> bytes:
    img.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A few bytes that promise any size."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(
        b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header lies about its size."""
    data = bytearray(encode(RGB, 'JPEG'))
    place = data.index(b'\xff\xc0') + 5
    data[place:place + 4] = struct.pack('>HH', height, width)
    return bytes(data)


READABLE = {  # (H, W) read as RGB
    'wrong extension': (encode(RGB, 'PNG'), (48, 64)),
    'cmyk': (encode(RGB.convert('CMYK'), 'JPEG'), (48, 64)),
    '16 bit': (encode(Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21), 'PNG'), (48, 64)),
    'grayscale': (encode(RGB.convert('L'), 'JPEG'), (48, 64)),
    'palette': (encode(RGB.convert('P'), 'PNG'), (48, 64)),
    'alpha': (encode(RGB.convert('RGBA'), 'PNG'), (48, 64)),
    'animated': (encode(RGB.convert('P'), 'GIF', save_all=True, append_images=[RGB.rotate(90).convert('P')]), (48, 64)),
    'exif rotated': (encode(RGB, 'JPEG', exif=EXIF), (64, 48)),
    '1x1': (encode(RGB.resize((1, 1)), 'PNG'), (1, 1)),
    '20000x10': (encode(RGB.resize((20000, 10)), 'PNG'), (10, 20000)),
}
UNREADABLE = {
    'truncated': encode(RGB, 'JPEG')[:-300],
    'truncated png': encode(RGB, 'PNG')[:-300],
    'zero bytes': b'',
    'text': b'<html>404</html>',
    'png bomb': png_header(60_000, 60_000),
    'jpeg bomb': jpeg_of_size(65_000, 65_000),
    'gif bomb': b'GIF89a' + struct.pack('<HH', 65_000, 65_000) + encode(RGB.convert('P'), 'GIF')[10:],
}


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


@pytest.mark.parametrize('kind', READABLE)
def test_what_has_a_right_reading_is_read(kind: str, tmp_path: Path) -> None:
    data, size = READABLE[kind]
    (tmp_path / 'a.jpg').write_bytes(data)
    img = decode(data)
    assert img.shape == (3, *size)
    if kind in ('wrong extension', 'alpha'):
        np.testing.assert_array_equal(img.permute(1, 2, 0).numpy(), np.asarray(RGB))
    dataset = ImageFolder(tmp_path, [dict(type='mae_mm.LoadRandomResizedCrop', size=8)])
    assert dataset[0]['inputs'].shape == (3, 8, 8)


@pytest.mark.parametrize('kind', UNREADABLE)
def test_what_has_none_is_an_error_without_taking_memory(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match='bomb' if 'bomb' in kind else None):
        decode(UNREADABLE[kind])
    (tmp_path / 'bad.jpg').write_bytes(UNREADABLE[kind])
    (tmp_path / 'good.png').write_bytes(encode(RGB, 'PNG'))
    dataset = ReadableSamples(ImageFolder(tmp_path, [dict(type='mae_mm.LoadRandomResizedCrop', size=8)]))
    assert dataset[0]['img_path'].endswith('good.png')
    assert dataset.broken_files() == [str(tmp_path / 'bad.jpg')]


def test_vanished_and_forbidden_files_are_replaced(images: Path, tmp_path: Path) -> None:
    for name in ('00.jpg', '01.jpg', '02.jpg'):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    dataset = ReadableSamples(ImageFolder(tmp_path, [dict(type='mae_mm.LoadRandomResizedCrop', size=8)]))
    (tmp_path / '00.jpg').unlink()
    (tmp_path / '01.jpg').chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # whom no permission stops
            tmp_path.chmod(0o755)
            for parent in tmp_path.parents[:2]:
                parent.chmod(0o755)
            os.seteuid(65534)
        assert {dataset[i]['img_path'] for i in range(3)} == {str(tmp_path / '02.jpg')}
    finally:
        os.seteuid(user)
    assert dataset.num_broken == 2


class Odd(Dataset):
    """Fails as hosts' pipelines do."""

    def __init__(self, *errors: Exception, good: int = 1) -> None:
        self.errors, self.good = errors, good

    def __len__(self) -> int:
        return len(self.errors) + self.good

    def __getitem__(self, i: int) -> int:
        if i < len(self.errors):
            raise self.errors[i]
        return i

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'{i}.jpg')


def test_a_hosts_data_set_is_spared_its_unreadable_files() -> None:
    samples = SeededSamples(Odd(OSError('gone'), AssertionError('failed to load image: a.jpg'), DecodeError('cut')))
    assert [samples[i, 7] for i in range(4)] == [3] * 4
    assert samples.num_broken == 3 and samples.broken_files() == ['0.jpg', '1.jpg', '2.jpg']
    with pytest.raises(AssertionError, match='a bug'):
        SeededSamples(Odd(AssertionError('a bug')))[0, 0]


def test_workers_count_together_and_warn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, warnings = ReadableSamples(Odd(OSError('gone'), OSError('lost'), good=2)), []
    loader = DataLoader(samples, 1, num_workers=2, timeout=60)
    for _ in range(2):
        assert sorted(map(int, loader)) == [2, 2, 2, 3]
    assert samples.num_broken == 2 and samples.broken_files() == ['0.jpg', '1.jpg']
    monkeypatch.setattr('mae_mm.engine.loops.batches.print_log', lambda text, *_: warnings.append(text))
    other = ReadableSamples(samples.dataset)
    assert [other[0], other[0], other[1]] == [2, 2, 2]
    assert warnings == ['0.jpg: gone; replaced by another image', '1.jpg: lost; replaced by another image']


def test_the_replacement_depends_on_the_seed_alone() -> None:
    samples = SeededSamples(Odd(OSError('gone'), good=9))
    drawn = []
    for seed in (1, 1, 2, 3, 4):
        np.random.seed()
        drawn.append(samples[0, seed])
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_a_run_bears_a_share_and_lists_it(images: Path, tmp_path: Path) -> None:
    data = save_images(tmp_path / 'data')
    (data / '05.jpg').write_bytes(b'')
    runner = train(tiny_config(data, tmp_path / 'run', **ALONE, **{'train_cfg.max_epochs': 2, 'val_dataloader': None,
                                                                   'val_cfg': None, 'val_evaluator': None}))
    assert runner.epoch == 2
    assert (tmp_path / 'run' / 'bad_images.txt').read_text() == f'{data / "05.jpg"}\n'
    for name in ('06.jpg', '07.jpg'):
        (data / name).write_bytes(b'no image')
    runner = build(tiny_config(data, tmp_path / 'run', **ALONE))
    with pytest.raises(TrainingStopped, match=r'3 of 24 images could not be read.*1\.00%'):
        runner.train()
    restore_signals(runner)
    assert len((tmp_path / 'run' / 'bad_images.txt').read_text().splitlines()) == 3


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


def test_lists_cannot_reach_outside(tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    content = dict(images=[dict(id=1, file_name='../../secret.jpg')], annotations=[], categories=[])
    (tmp_path / 'annotations' / 'instances_val2017.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='not the name of a file inside'):
        list_files('coco', str(tmp_path))


LAYOUTS: dict[str, Callable[[Path], list[str]]] = {
    'folder': lambda root: ['a/1.jpg', 'b.png'],
    'coco': lambda root: ['train2017/1.jpg'],
    'ade20k': lambda root: ['images/training/1.jpg', 'annotations/training/1.png'],
    'inaturalist': lambda root: ['train_val2018/x/1.jpg'],
    'places': lambda root: ['data_256/a/1.jpg'],
}


@pytest.mark.parametrize('kind', LAYOUTS)
def test_check_dataset_finds_the_bad_files_of_each_layout(kind: str, tmp_path: Path) -> None:
    names = LAYOUTS[kind](tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(RGB, 'PNG'))
    lists = {
        'coco': ('annotations/instances_train2017.json', dict(
            images=[dict(id=1, file_name='1.jpg')], annotations=[], categories=[])),
        'inaturalist': ('train2018.json', dict(images=[dict(id=1, file_name='train_val2018/x/1.jpg')])),
        'places': ('places365_train_standard.txt', '/a/1.jpg 0\n')}
    if kind in lists:
        file, content = tmp_path / lists[kind][0], lists[kind][1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    files = list_files(kind, str(tmp_path))
    assert files == sorted(str(tmp_path / name) for name in names)
    assert check_files(files, 2, progress=False) == []
    (tmp_path / names[0]).write_bytes(UNREADABLE['truncated png'])
    bad, = check_files(files, 2, progress=False)
    assert bad.path == str(tmp_path / names[0]) and bad.reason
    assert f'1 of {len(files)} files cannot be read' in report(files, [bad], 0.01)


def test_check_dataset_sees_broken_links_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / 'link.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    assert 'No such file' in what_is_wrong(list_files('folder', str(tmp_path))[0])
    with pytest.raises(FileNotFoundError, match='in the layout of places'):
        list_files('places', str(tmp_path))


@pytest.mark.integration
def test_check_dataset_command(tmp_path: Path) -> None:
    data = save_images(tmp_path / 'data')
    for name in ('00.jpg', '01.jpg'):
        (data / name).write_bytes(b'')
    result = subprocess.run(
        [sys.executable, 'tools/check_dataset.py', str(data), '--out', str(tmp_path / 'bad.txt'), '--workers', '1'],
        cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert result.returncode == 1, result.stderr
    assert '2 of 24 files cannot be read (8.33%)' in result.stdout and '2  empty file …' in result.stdout
    assert (tmp_path / 'bad.txt').read_text().splitlines()[0] == f'{data / "00.jpg"}\tempty file'
