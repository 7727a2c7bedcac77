"""Packed and loose files give the same tensors, in every order, process and place."""

import shutil
import tarfile

import fsspec
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mae_mm.datasets import DecodeError, ImageFolder, ImageTar
from mae_mm.datasets.image_tar import INDEX_SUFFIX
from mae_mm.datasets.pack import member_names, pack

TRAIN = [{'type': 'mae_mm.LoadRandomResizedCrop', 'size': 16}]
NAMES = ['a.jpg', 'a.png', 'b.c.png', 'n01/x.JPEG', 'n01/deep/ü.bmp', *(f'n02/{i}.png' for i in range(9))]


@pytest.fixture(scope='module')
def loose(tmp_path_factory):
    root = tmp_path_factory.mktemp('loose')
    for i, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


@pytest.fixture
def packed(loose, tmp_path):
    """Three tars."""
    pack(str(loose), str(tmp_path / 'tars'), shard_gb=1.5e-5)
    return tmp_path / 'tars'


def tensors(dataset, order=None):
    np.random.seed(0)
    return [dataset[i]['inputs'] for i in (range(len(dataset)) if order is None else order)]


def test_packed_and_loose_are_the_same(loose, packed):
    assert len(list(packed.glob('*.tar'))) == 3 and not list(packed.glob('*.part'))
    folder, tar = ImageFolder(loose, TRAIN), ImageTar(packed, TRAIN)
    assert len(tar) == len(folder) == len(NAMES)
    order = torch.randperm(len(NAMES)).tolist()
    for way in (None, order):
        assert all(map(torch.equal, tensors(folder, way), tensors(tar, way)))
    sample = tar[4]
    assert set(sample) == {'inputs', 'img_path', 'sample_idx'} and sample['img_path'].endswith('.tar/n01/deep/ü.bmp')


@pytest.mark.parametrize('way', ['index', 'headers', 'stale index', 'one file', 'pattern'])
def test_every_way_to_find_them(loose, packed, way):
    root, want = packed, tensors(ImageFolder(loose, TRAIN))
    if way == 'headers':
        for index in packed.glob('*' + INDEX_SUFFIX):
            index.unlink()
    elif way == 'stale index':
        first, *_, last = sorted(packed.glob('*' + INDEX_SUFFIX))
        last.write_bytes(first.read_bytes())
    elif way == 'one file':
        root, want = packed / 'images-000000.tar', want[:len(ImageTar(packed / 'images-000000.tar'))]
        assert 0 < len(want) < len(NAMES)
    elif way == 'pattern':
        root = f'{packed}/images-*.tar'
    found = tensors(ImageTar(root, TRAIN))
    assert len(found) == len(want) and all(map(torch.equal, found, want))


def test_any_place_that_fsspec_reads(loose, packed):
    memory = fsspec.filesystem('memory')
    for file in packed.iterdir():
        memory.pipe(f'/bucket/{file.name}', file.read_bytes())
    want = tensors(ImageFolder(loose, TRAIN))
    for root in ('memory://bucket', 'memory://bucket/images-*.tar'):
        dataset = ImageTar(root, TRAIN)
        assert len(dataset.shards) == 3 and all(map(torch.equal, tensors(dataset), want))


def test_ranks_and_workers_share_the_images_out(packed):
    """Each of two ranks with two workers reads its own half; together all, once."""
    dataset, seen = ImageTar(packed, TRAIN), []
    for rank in range(2):
        sampler = DefaultSampler(dataset, shuffle=True, seed=1)
        sampler.rank, sampler.world_size, sampler.num_samples = rank, 2, len(dataset) // 2
        for batch in DataLoader(dataset, 2, sampler=sampler, num_workers=2):
            seen += batch['sample_idx'].tolist()
    assert sorted(seen) == list(range(len(NAMES)))


@pytest.mark.parametrize('indices', [3, -2, [9, 0, 4]])
def test_subsets(loose, packed, indices):
    want = tensors(ImageFolder(loose, TRAIN, indices=indices))
    for dataset in (ImageTar(packed, TRAIN, indices=indices), ImageTar(packed, TRAIN).get_subset(indices)):
        assert len(dataset) == len(want) and all(map(torch.equal, tensors(dataset), want))


def test_cache(loose, packed):
    dataset = ImageTar(packed, TRAIN, cache='memory')
    for file in packed.iterdir():
        file.unlink()
    assert all(map(torch.equal, tensors(dataset), tensors(ImageFolder(loose, TRAIN))))


def test_a_tar_that_was_cut_off_is_a_broken_image(packed):
    dataset = ImageTar(packed, TRAIN)
    last = sorted(packed.glob('*.tar'))[-1]
    start = int(dataset.starts[-1])
    last.write_bytes(last.read_bytes()[:start + 10])
    assert dataset[0]['sample_idx'] == 0
    with pytest.raises(DecodeError, match=r'cannot read .*not at its position'):
        dataset[len(dataset) - 1]


def test_names_do_not_meet_in_webdataset(packed):
    """webdataset's rule: neighbours with the same name up to the first dot of the last part are one sample."""
    keys = []
    for shard in sorted(packed.glob('*.tar')):
        with tarfile.open(shard, 'r|') as tar:  # as a stream, as it reads them
            for member in tar:
                folder, _, name = member.name.rpartition('/')
                keys.append((folder, name.split('.')[0]))
                assert name.count('.') == 1 and name == name[:-5] + name[-5:].lower()
    assert len(keys) == len(set(keys)) == len(NAMES)
    assert dict(member_names(iter(['d/a.b.jpg', 'd/a_b.JPG', 'e/a.jpg']))) == {
        'd/a.b.jpg': 'd/a_b.jpg', 'd/a_b.JPG': 'd/a_b_2.jpg', 'e/a.jpg': 'e/a.jpg'}


def test_the_same_files_give_the_same_bytes(loose, packed, tmp_path):
    pack(str(loose), str(tmp_path / 'again'), shard_gb=1.5e-5)
    for file in packed.glob('*.tar'):
        assert file.read_bytes() == (tmp_path / 'again' / file.name).read_bytes()


def test_packing_goes_on_behind_the_last_complete_tar(loose, packed, tmp_path):
    """And refuses tars of other files."""
    whole = {file.name: file.read_bytes() for file in packed.glob('*.tar')}
    (packed / 'images-000002.tar').unlink()
    (packed / 'images-000001.tar').rename(packed / 'images-000001.tar.part')  # as kill -9 leaves it
    kept = (packed / 'images-000000.tar').stat()
    shards, count = pack(str(loose), str(packed), shard_gb=1.5e-5)
    assert {file.name: file.read_bytes() for file in shards} == whole and count == len(NAMES)
    assert (packed / 'images-000000.tar').stat().st_mtime_ns == kept.st_mtime_ns
    assert not list(packed.glob('*.part')) and len(ImageTar(packed, TRAIN)) == len(NAMES)
    less = tmp_path / 'less'
    shutil.copytree(loose, less)
    sorted(less.rglob('*.*'))[-1].unlink()
    with pytest.raises(FileExistsError, match=r'images-00000\d\.tar exists with other files'):
        pack(str(less), str(packed), shard_gb=1.5e-5)
    shutil.copy(packed / 'images-000000.tar', packed / 'images-000003.tar')
    with pytest.raises(FileExistsError, match=r'images-000003\.tar exists, .* no files left for it'):
        pack(str(loose), str(packed), shard_gb=1.5e-5)
    (packed / 'images-000000.tar').write_bytes(b'')
    with pytest.raises(ValueError, match=r'images-000000\.tar: not a plain and complete tar'):
        pack(str(loose), str(packed), shard_gb=1.5e-5)


def test_mistakes_are_named(loose, packed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere: no tar\. Expected .*pack_tar\.py'):
        ImageTar(tmp_path / 'nowhere', TRAIN)
    with tarfile.open(tmp_path / 'zipped.tar', 'w:gz') as tar:
        tar.add(loose / 'a.jpg', 'a.jpg')
    with pytest.raises(ValueError, match=r'zipped\.tar: not a plain and complete tar'):
        ImageTar(tmp_path / 'zipped.tar', TRAIN)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no image in this folder'):
        pack(str(tmp_path / 'empty'), str(tmp_path / 'out'))
    for gigabytes in (0, -1, float('nan')):
        with pytest.raises(ValueError, match=r'--shard-gb .* above 0'):
            pack(str(loose), str(tmp_path / 'out'), gigabytes)
    with pytest.raises(ValueError, match=r'nowhere/? cannot be listed'):
        pack(str(tmp_path / 'nowhere'), str(tmp_path / 'out'))
    with pytest.raises(FileExistsError, match='File exists'):
        pack(str(loose), str(tmp_path / 'zipped.tar'))
    (tmp_path / 'short.tar').write_bytes((packed / 'images-000000.tar').read_bytes()[:700])
    with pytest.raises(ValueError, match=r'short\.tar: not a plain and complete tar'):
        ImageTar(tmp_path / 'short.tar', TRAIN)
    with pytest.raises(ValueError, match=r"data_root='foo://a' cannot be opened: .*foo"):
        ImageTar('foo://a', TRAIN)


@pytest.mark.parametrize('content', [b'', b'text', b'PK', 'cut', 'other arrays', 'outside', 'unordered'])
def test_a_damaged_index_is_not_used(loose, packed, content, monkeypatch):
    """It is said, and the headers are read."""
    said = []
    monkeypatch.setattr('mae_mm.datasets.image_tar.print_log', lambda text, *_: said.append(text))
    index = sorted(packed.glob('*' + INDEX_SUFFIX))[0]
    with np.load(index) as file:
        arrays = dict(file)
    if content == 'cut':
        index.write_bytes(index.read_bytes()[:900])
    elif content == 'other arrays':
        np.savez(index, a=1)
    elif content == 'outside':
        np.savez(index, **{**arrays, 'sizes': arrays['sizes'] + 10**9})
    elif content == 'unordered':
        np.savez(index, **{**arrays, 'ends': arrays['ends'][::-1]})
    else:
        index.write_bytes(content)
    assert all(map(torch.equal, tensors(ImageTar(packed, TRAIN)), tensors(ImageFolder(loose, TRAIN))))
    assert len(said) == 1 and 'reading headers' in said[0]


def test_a_missing_tar_is_named(packed):
    _, second, _ = sorted(packed.glob('*.tar'))
    second.rename(second.with_suffix('.gone'))
    with pytest.raises(FileNotFoundError, match=r'images-000001\.tar is missing, but its index is there'):
        ImageTar(packed, TRAIN)


def test_files_that_changed_places_are_not_read_as_one_another(loose, tmp_path):
    """Two files in the middle of a tar, as long as one another with their filling: the index still fits its ends."""
    (tar,), _ = pack(str(loose), str(tmp_path / 'tar'))
    dataset, content = ImageTar(tar, TRAIN, test_mode=True), bytearray(tar.read_bytes())
    blocks = [slice(start - 512, start + -(-size // 512) * 512) for start, size in zip(
        dataset.starts.tolist(), dataset.sizes.tolist(), strict=True)]
    pairs = [(i, j) for i in range(1, len(blocks)) for j in range(i + 1, len(blocks) - 1)
             if blocks[i].stop - blocks[i].start == blocks[j].stop - blocks[j].start]
    i, j = pairs[0]
    content[blocks[i]], content[blocks[j]] = content[blocks[j]], content[blocks[i]]
    tar.write_bytes(content)
    dataset = ImageTar(tar, TRAIN, test_mode=True)
    for place in (i, j):
        with pytest.raises(Exception, match=r'the tar was changed, delete its \.index\.npz'):
            dataset[place]
    assert all(dataset[place]['sample_idx'] == place for place in range(len(dataset)) if place not in (i, j))


def test_resolves_by_scope(packed):
    assert isinstance(DATASETS.build(dict(type='mae_mm.ImageTar', data_root=str(packed))), ImageTar)


def test_names_choose_from_all_tars(packed):
    every = ImageTar(packed, TRAIN)
    names = [*every.relative_names()]
    assert len(set(names)) == len(NAMES) and names[4].endswith('.tar/n01/deep/ü.bmp')
    assert {name.split('/')[0] for name in names} == {tar.name for tar in packed.glob('*.tar')}
    some = ImageTar(packed, TRAIN, names=[names[9], names[2], 'no.tar/such.png'])
    assert [*some.relative_names()] == [names[2], names[9]]
    assert torch.equal(tensors(some)[0], tensors(every, [2])[0])
    with pytest.raises(FileNotFoundError, match='none of the 1'):
        ImageTar(packed, names=['no.tar/such.png'])
