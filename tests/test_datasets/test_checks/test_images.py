"""The check ahead of time against folders and lists as people have them: loops, pipes, permissions, broken lists."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, open_to_all
from helpers.images import encode, photo
from helpers.pixels import destroy, ramp, write_geotiff
from helpers.reliability import save_images
from helpers.tools import run_tool
from PIL import Image

from mae_mm.datasets import ImageFolder, INaturalist, Places365, stored
from mae_mm.datasets.checks import images
from mae_mm.datasets.checks.coco import check_loader, read_annotations
from mae_mm.datasets.checks.images import BadFile, check_files, list_files, report, what_is_wrong
from mae_mm.datasets.find import find_images
from mae_mm.datasets.limits import exceeds_share
from mae_mm.datasets.pack import pack
from mae_mm.datasets.pixels import Reading

PNG = encode(Image.fromarray(photo(20, 20)), 'PNG')
DEEP = '[' * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good images, one of them in a sub-folder."""
    (tmp_path / 'data' / 'sub').mkdir(parents=True)
    for name in ('a.png', 'sub/b.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / 'data' / name)
    return tmp_path / 'data'


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """No permissions of root's, whom none stops."""
    user = os.geteuid()
    if user == 0:
        open_to_all(tmp_path)
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_links_in_circles_end(folder: Path) -> None:
    for name in ('x', 'y', 'sub/up'):
        (folder / name).symlink_to('..' if name == 'sub/up' else '.')
    (folder / 'self.jpg').symlink_to('self.jpg')
    assert list_files('folder', str(folder)) == [str(folder / name) for name in ('a.png', 'self.jpg', 'sub/b.png')]
    assert list(find_images(str(folder))) == ['a.png', 'sub/b.png']
    assert len(ImageFolder(folder)) == 2


def test_what_training_leaves_out_is_reported(folder: Path) -> None:
    os.mkfifo(folder / 'pipe.jpg')
    (folder / 'link.jpg').symlink_to('nowhere.jpg')
    (folder / 'folder.jpg').mkdir()
    bad = check_files(list_files('folder', str(folder)), 1, progress=False)
    assert [(Path(one.path).name, one.reason.split(':')[0]) for one in bad] == [
        ('link.jpg', '[Errno 2] No such file or directory'), ('pipe.jpg', 'not a regular file')]
    assert list(find_images(str(folder))) == ['a.png', 'sub/b.png']


def test_a_folder_that_may_not_be_read_is_an_error(folder: Path, ordinary_user: None) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    (folder / 'sub').chmod(0)
    os.seteuid(user)
    for read in (lambda: list_files('folder', str(folder)), lambda: ImageFolder(folder)):
        with pytest.raises(ValueError, match=r'/data/sub/? cannot be listed \(Permission denied\)'):
            read()


def test_a_file_that_crashes_the_decoder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(9):
        (folder / 'sub' / f'{i}.png').write_bytes(PNG)
    monkeypatch.setattr(images, 'CHUNK', 4)
    monkeypatch.setattr(images, 'read_file', lambda path: os._exit(1) if path.endswith('6.png') else PNG)
    files = list_files('folder', str(folder))
    assert check_files(files, 2, progress=False) == [BadFile(str(folder / 'sub/6.png'), 'crashes the decoder')]


def test_a_bad_image_in_a_tar_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / 'text.jpg').write_text('no image')
    pack(str(folder), str(tmp_path / 'tars'))
    files = list_files('tar', str(tmp_path / 'tars'))
    assert len(files) == 3
    assert check_files(files, 1, progress=False) == [
        BadFile(str(tmp_path / 'tars/images-000000.tar/text.jpg'), what_is_wrong(str(folder / 'text.jpg')))]


WRONG = ['{"images": ["a"], "annotations": [], "categories": []}', '{"images": null}', '{"images": ["x"]}',
         '{"images": [{"file_name": 5}]}', '{"images": [{"file_name": "\\ud800.jpg"}]}', '{"images": [', DEEP]


@pytest.mark.parametrize('content', WRONG, ids=lambda text: text[:30])
def test_a_malformed_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_val.json').write_text(content)
    with pytest.raises(ValueError, match=r'instances_val\.json'):
        list_files('coco', str(tmp_path))


@pytest.mark.parametrize('change', [
    dict(images=['a']), dict(images=None), dict(images=[dict(id=1, file_name=5)]), dict(annotations=[[]]),
    dict(categories=[dict(id=1, name='a'), dict(id='1', name='b')]), dict(images=[dict(id=[], file_name='a.jpg')]),
    dict(images=[dict(id=1, file_name='\ud800')])], ids=str)
def test_training_on_malformed_inaturalist_names_the_file(change: dict, tmp_path: Path) -> None:
    content = dict(
        images=[dict(id=1, file_name='a.jpg')], annotations=[dict(image_id=1, category_id=1)],
        categories=[dict(id=1, name='a')])
    (tmp_path / 'train2018.json').write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=r'train2018\.json|is outside'):
        INaturalist(data_root=str(tmp_path))
    for text in ('{"images": [', DEEP):
        (tmp_path / 'train2018.json').write_text(text)
        with pytest.raises(ValueError, match=r'train2018\.json is not valid JSON'):
            INaturalist(data_root=str(tmp_path))


@pytest.mark.parametrize('change', [
    dict(bbox='abcd'), dict(bbox=5), dict(bbox=[0, 0, 'a', 2]), dict(image_id=[]), dict(bbox=[0.5, 0, 10 ** 400, 1])],
    ids=lambda change: str(change)[:30])
def test_training_on_malformed_coco_names_the_file(change: dict, tmp_path: Path) -> None:
    from mmengine.config import Config

    annotation = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0)
    path = tmp_path / 'coco.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='a.jpg', width=8, height=8)], annotations=[{**annotation, **change}],
        categories=[dict(id=1, name='a')])))
    cfg = Config(dict(model={}, train_dataloader=dict(dataset=dict(
        type='CocoDataset', ann_file=str(path), metainfo=dict(classes=('a', ))))))
    with pytest.raises(ValueError, match=r'coco\.json'):
        check_loader(cfg, 'train_dataloader')
    path.write_text(DEEP)
    with pytest.raises(ValueError, match=r'coco\.json is not valid JSON'):
        read_annotations(path)


def test_a_label_that_is_not_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'categories_places365.txt').write_text('/a/abbey 0\n')
    (tmp_path / 'places365_train_standard.txt').write_text('/a/abbey/1.jpg 999999999999\n')
    with pytest.raises(ValueError, match='must number its classes from 0'):
        Places365(data_root=str(tmp_path))


@pytest.mark.parametrize('file, folder', [
    ('labels.json', 'pictures'), ('annotations/train.json', '.'), ('annotations/instances_a.json', 'a'),
    ('sub/anything.json', 'sub/images')])
def test_any_coco_file_is_read(file: str, folder: str, tmp_path: Path) -> None:
    for path in (tmp_path / file, tmp_path / folder / 'x'):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8)).save(tmp_path / folder / 'x.png')
    (tmp_path / file).write_text(json.dumps(dict(images=[dict(file_name='x.png')])))
    (tmp_path / file).with_name('other.json').write_text('[1]')
    want = [str(tmp_path / folder / 'x.png')]
    assert list_files('coco', str(tmp_path / file)) == want
    if 'sub' not in file:
        assert list_files('coco', str(tmp_path)) == want


def test_a_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content in ('[1]', '{"images": []}', '{"shapes": [{"label": "cat"}]}'):
        (tmp_path / 'other.json').write_text(content)
        with pytest.raises(ValueError, match=r"other\.json is not a COCO annotation file: .* a list 'images'"):
            list_files('coco', str(tmp_path / 'other.json'))
    with pytest.raises(FileNotFoundError, match='no data set in the layout of coco'):
        list_files('coco', str(tmp_path))


@pytest.mark.parametrize('files, bad, stops', [(2, 1, False), (2, 2, True), (1000, 10, False), (1000, 11, True)])
def test_the_verdict_is_the_rule_of_training(files: int, bad: int, stops: bool) -> None:
    paths = [f'{i}.jpg' for i in range(files)]
    text = report(paths, [BadFile(path, 'empty file') for path in paths[:bad]], 0.01)
    assert f'{bad} of {files} files' in text and ('training would stop' in text) is stops
    assert exceeds_share(bad, files, 0.01) is stops


def test_reasons_are_grouped_without_the_names_of_files() -> None:
    bad = [BadFile(f'/a/{i}.tif', f'cannot read /a/{i}.tif: an image of 5 bands, and bands=6') for i in range(3)]
    bad += [BadFile(f'/a/{i}.jpg', f'reason {i}') for i in range(9)]
    text = report([one.path for one in bad], bad, 0.01)
    assert '      3  an image of 5 bands, and bands=6\n' in text and 'and 2 other reasons\n' in text


@pytest.mark.integration
def test_names_that_are_no_utf8(folder: Path, tmp_path: Path) -> None:
    (folder / 'annotations').mkdir()
    with open(os.fsencode(folder) + b'/bad\xff.jpg', 'wb'):
        pass
    (folder / 'annotations' / 'instances_sub.json').write_text(json.dumps(dict(
        images=[dict(file_name='bad\udcff.jpg')], annotations=[], categories=[])))
    for kind, name in (('folder', b'/bad\xff.jpg\tempty file\n'), ('coco', b'/bad\xff.jpg\tempty file\n')):
        result = subprocess.run(
            [sys.executable, 'tools/check_dataset.py', str(folder), '--kind', kind, '--workers', '1', '--out',
             str(tmp_path / 'bad.txt')], cwd=ROOT, capture_output=True, timeout=300,
            env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
        assert result.returncode == 0 and b'1 of ' in result.stdout, result.stderr
        assert (tmp_path / 'bad.txt').read_bytes().startswith(os.fsencode(folder) + name)


def test_lists_cannot_reach_outside(tmp_path: Path) -> None:
    (tmp_path / 'annotations').mkdir()
    content = dict(images=[dict(id=1, file_name='../../secret.jpg')], annotations=[], categories=[])
    (tmp_path / 'annotations' / 'instances_val2017.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='not the name of a file inside'):
        list_files('coco', str(tmp_path))


LAYOUTS = {
    'folder': ['a/1.jpg', 'b.png'],
    'coco': ['train2017/1.jpg'],
}


@pytest.mark.parametrize('kind', LAYOUTS)
def test_check_dataset_finds_the_bad_files_of_each_layout(kind: str, tmp_path: Path) -> None:
    names = LAYOUTS[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    if kind == 'coco':
        (tmp_path / 'annotations').mkdir()
        (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(dict(
            images=[dict(id=1, file_name='1.jpg')], annotations=[], categories=[])))
    files = list_files(kind, str(tmp_path))
    assert files == sorted(str(tmp_path / name) for name in names)
    assert check_files(files, 2, progress=False) == []
    (tmp_path / names[0]).write_bytes(PNG[:200])
    bad, = check_files(files, 2, progress=False)
    assert bad.path == str(tmp_path / names[0]) and bad.reason
    assert f'1 of {len(files)} files cannot be read' in report(files, [bad], 0.01)


@pytest.mark.parametrize('options, bad', [
    (['--reading', 'dtype=uint16', 'bands=6'], ['3 bands', 'float32', 'truncated']),
    (['--reading', 'bands=3,2,1'], ['truncated']), (['--config', 'mine.py'], ['3 bands', 'truncated'])])
def test_pixels_are_read_as_training_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], bad: list[str],
) -> None:
    """Six bands of 16 bits; a file of three, one of floats, and one that is cut off."""
    (tmp_path / 'data').mkdir()
    for name, img in {'6.npy': ramp(), '3 bands.npy': ramp(3), 'float32.npy': ramp(dtype='float32')}.items():
        np.save(tmp_path / 'data' / name, img)
    (tmp_path / 'data/truncated.npy').write_bytes((tmp_path / 'data/6.npy').read_bytes()[:900])
    (tmp_path / 'mine.py').write_text(
        "model = dict(type='mae_mm.MAE')\nval_dataloader = dict(dataset=dict(pipeline=[dict("
        "type='mae_mm.LoadResizeCenterCrop', size=8, dtype='float32', bands=6)]))\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_tool('check_dataset', 'data', *options, '--workers', '1', '--out', 'bad.txt')
    assert end.value.code == int(len(bad) > 1)  # one is tolerated
    assert [Path(line.split('\t')[0]).stem for line in (tmp_path / 'bad.txt').read_text().splitlines()] == bad


def test_check_dataset_sees_broken_links_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / 'link.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    assert 'No such file' in what_is_wrong(list_files('folder', str(tmp_path))[0])
    with pytest.raises(FileNotFoundError, match='in the layout of coco'):
        list_files('coco', str(tmp_path))


@pytest.mark.integration
def test_check_dataset_command(tmp_path: Path) -> None:
    data = save_images(tmp_path / 'data')
    for name in ('00.jpg', '01.jpg'):
        (data / name).write_bytes(b'')
    result = subprocess.run(
        [sys.executable, 'tools/check_dataset.py', str(data), '--out', str(tmp_path / 'bad.txt'), '--workers', '1'],
        cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert result.returncode == 1, result.stderr
    assert '2 of 24 files cannot be read (8.33%)' in result.stdout and '2  empty file\n' in result.stdout
    assert f'  {data / "00.jpg"}\n  {data / "01.jpg"}\n' in result.stdout
    assert (tmp_path / 'bad.txt').read_text().splitlines()[0] == f'{data / "00.jpg"}\tempty file'


def test_good_data_leave_no_list(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='0'):
        run_tool('check_dataset', save_images(tmp_path / 'data'), '--out', tmp_path / 'bad.txt', '--workers', '1')
    assert not (tmp_path / 'bad.txt').exists()


def test_an_image_that_is_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training reads crops and tiles of it."""
    img = np.resize(ramp(1), (600, 48, 1))
    write_geotiff(tmp_path / 'a.tif', img, tiled=True, blockxsize=16, blockysize=16, compress='deflate')
    for module in (images, stored):
        monkeypatch.setattr(module, 'MAX_PIXELS', 600 * 48 - 1)
    assert what_is_wrong(str(tmp_path / 'a.tif'), Reading('keep')) == ''
    destroy(tmp_path / 'a.tif', (slice(30), slice(None)))
    assert 'a.tif' in what_is_wrong(str(tmp_path / 'a.tif'), Reading('keep'))
