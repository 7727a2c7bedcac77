"""Finding files, broken files, the shared cache, and the way through mmengine's loader."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from mae_mm.datasets import DecodeError, ImageFolder
from mae_mm.datasets import image_folder as module
from mae_mm.datasets.find import read_names, write_names
from mae_mm.engine.loops.batches import ReadableSamples

TRAIN = [{'type': 'mae_mm.LoadRandomResizedCrop', 'size': 16}]
TEST = [{'type': 'mae_mm.LoadResizeCenterCrop', 'size': 16}]


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = 20 + seed % 5, 24 + seed % 7
    img = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(img).save(path, 'png' if path.suffix.lower() == '.png' else None)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve images: flat, nested and in class folders."""
    root = tmp_path_factory.mktemp('images')
    names = ['z.png', 'a.JPG', 'n01/b.jpeg', 'n01/a.webp', 'n01/deep/er/c.bmp', 'n02/ü.tiff']
    for i, name in enumerate(names + [f'n03/{i}.png' for i in range(6)]):
        save(root / name, i)
    (root / 'notes.txt').write_text('no image')
    save(root / '.hidden.png')
    return root


@pytest.fixture
def broken(tmp_path):
    """Eight images, of which two are no images."""
    for i in range(6):
        save(tmp_path / f'{i}.png', i)
    (tmp_path / 'text.jpg').write_text('I am a text')
    (tmp_path / 'cut.png').write_bytes((tmp_path / '1.png').read_bytes()[:700])
    return tmp_path


@pytest.fixture
def warnings(monkeypatch):
    """What the data set logs."""
    messages = []
    monkeypatch.setattr(module, 'print_log', lambda message, *args: messages.append(message))
    return messages


def paths(dataset):
    return [os.path.relpath(dataset.get_data_info(i)['img_path'], dataset.data_root) for i in range(len(dataset))]


def test_finds_every_image_in_a_fixed_order(folder):
    assert paths(ImageFolder(folder)) == [
        'a.JPG', 'z.png', 'n01/a.webp', 'n01/b.jpeg', 'n01/deep/er/c.bmp', 'n02/ü.tiff',
        'n03/0.png', 'n03/1.png', 'n03/2.png', 'n03/3.png', 'n03/4.png', 'n03/5.png']


def test_follows_links_once(folder, tmp_path):
    save(tmp_path / 'one' / 'a.png')
    (tmp_path / 'elsewhere').symlink_to(folder / 'n03')
    (tmp_path / 'one' / 'loop').symlink_to(tmp_path)
    (tmp_path / 'one' / 'dangling.png').symlink_to(tmp_path / 'nowhere.png')
    (tmp_path / 'one' / 'link.png').symlink_to(folder / 'z.png')
    assert paths(ImageFolder(tmp_path)) == [f'elsewhere/{i}.png' for i in range(6)] + ['one/a.png', 'one/link.png']


@pytest.mark.parametrize('make, found', [
    (lambda root: root / 'missing', 'no such folder'),
    (lambda root: root, r'no image \(.jpg '),
    (lambda root: (root / 'notes.txt').write_text('') or root, r'no image \(.jpg '),
    (lambda root: (root / 'n01' / 'deep').mkdir(parents=True) or root, r'no image \(.jpg '),
])
def test_missing_images_end_with_one_message(tmp_path, monkeypatch, make, found):
    root = make(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(FileNotFoundError) as error:
        ImageFolder(os.path.relpath(root), TRAIN)
    assert error.match(f'{root}: {found}')
    assert error.match('folders below it') and error.match('python tools/make_demo_data.py --out data/demo')


def test_sample_and_batch(folder):
    dataset = ImageFolder(folder, TRAIN)
    sample = dataset[3]
    assert set(sample) == {'inputs', 'img_path', 'sample_idx'}
    assert sample['inputs'].dtype == torch.uint8 and sample['inputs'].shape == (3, 16, 16)
    assert (sample['img_path'], sample['sample_idx']) == (f'{folder}/n01/b.jpeg', 3)
    assert dataset[-1]['sample_idx'] == 11
    batch = default_collate([dataset[i] for i in (5, 0)])
    assert batch['inputs'].shape == (2, 3, 16, 16) and batch['inputs'].dtype == torch.uint8
    assert batch['img_path'] == [f'{folder}/n02/ü.tiff', f'{folder}/a.JPG']
    assert batch['sample_idx'].tolist() == [5, 0]
    with pytest.raises(IndexError):
        dataset[12]


@pytest.mark.parametrize('indices, want', [
    (5, range(5)), (-3, range(9, 12)), ([4, -1, -12], [4, 11, 0]), (99, range(12)), (-12, range(12))])
@pytest.mark.parametrize('cache', ['none', 'memory'])
def test_subsets(folder, indices, want, cache):
    whole = ImageFolder(folder, TEST, cache=cache)
    for dataset in (ImageFolder(folder, TEST, cache=cache, indices=indices), whole.get_subset(indices)):
        assert paths(dataset) == [paths(whole)[i] for i in want]
        assert all(torch.equal(dataset[i]['inputs'], whole[j]['inputs']) for i, j in enumerate(want))
    assert len(whole) == 12
    whole.get_subset_(indices)
    assert len(whole) == len(want)


def test_subsets_leave_mmengines_common_memo_alone(folder):
    memo, = BaseDataset._copy_without_annotation.__defaults__  # entries of dead objects would meet new ones
    before = len(memo)
    ImageFolder(folder, TEST).get_subset(3)
    assert len(memo) == before


def test_a_path_costs_its_bytes(folder):
    dataset = ImageFolder(folder)
    assert dataset.data_bytes.nbytes == sum(len(os.fsencode(p)) for p in paths(dataset))
    assert dataset.data_address.nbytes == 8 * 12


def test_a_broken_file_is_an_error_that_names_it(broken):
    dataset = ImageFolder(broken, TRAIN)
    for i, name, reason in ((6, 'cut.png', '.*truncated'), (7, 'text.jpg', "not an image, begins with b'I am a text'")):
        with pytest.raises(DecodeError, match=f'cannot read {broken}/{name}: {reason}'):
            dataset[i]
    assert dataset[0]['sample_idx'] == 0


def test_an_error_that_is_no_broken_file_passes(folder):
    def fault(results):
        raise ValueError('a bug')

    with pytest.raises(ValueError, match='a bug'):
        ImageFolder(folder, [fault])[0]


def test_cache_gives_the_same_tensors_without_the_files(folder, tmp_path, warnings):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    plain, cached = ImageFolder(folder, TRAIN), ImageFolder(copy, TRAIN, cache='memory')
    shutil.rmtree(copy)
    samples = []
    for dataset in (plain, cached):
        np.random.seed(0)
        samples.append([dataset[i]['inputs'] for i in range(12)] + [dataset[i]['inputs'] for i in range(12)])
    assert all(map(torch.equal, *samples))
    assert '12 of 12 images in memory' in warnings[0]


def test_cache_stops_at_its_bound(folder, warnings):
    sizes = [plain.size[0] * plain.size[1] * 3 for plain in map(Image.open, map(str, sorted(folder.glob('n03/*'))))]
    dataset = ImageFolder(folder / 'n03', TEST, cache='memory', cache_gb=(sum(sizes) - 1) / 1e9)
    assert len(dataset.cache) == 5 and dataset.cache.used <= sum(sizes) - 1
    assert '5 of 6 images in memory' in warnings[0] and 'is full' in warnings[0]
    plain = ImageFolder(folder / 'n03', TEST)
    assert all(torch.equal(dataset[i]['inputs'], plain[i]['inputs']) for i in range(6))


def test_cache_leaves_broken_files_to_their_turn(broken, warnings):
    dataset = ImageFolder(broken, TRAIN, cache='memory')
    assert len(dataset.cache) == 6 and dataset[0]['sample_idx'] == 0
    with pytest.raises(DecodeError, match=r'text\.jpg'):
        dataset[7]


@pytest.mark.parametrize('value', [0, -1])
def test_a_cache_without_room_is_named(folder, value):
    with pytest.raises(ValueError, match=r'cache_gb=.* must be above 0'):
        ImageFolder(folder, TEST, cache='memory', cache_gb=value)


def test_cache_reduces_the_short_side(folder):
    dataset = ImageFolder(folder, TEST, cache='memory', cache_short_side=10)
    assert {min(dataset.cache.get(i).shape[:2]) for i in range(12)} == {10}
    assert dataset[0]['inputs'].shape == (3, 16, 16)


def test_cache_needs_a_transform_that_loads(folder):
    with pytest.raises(ValueError, match=r'needs a mae_mm\.Load'):
        ImageFolder(folder, [], cache='memory')
    with pytest.raises(ValueError, match="cache is 'disk'; choose 'none' or 'memory'"):
        ImageFolder(folder, TEST, cache='disk')


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_share_the_cache_and_the_count(folder, tmp_path, method):
    root = shutil.copytree(folder, tmp_path / 'copy')
    (root / 'text.jpg').write_text('text')
    dataset = ImageFolder(root, TRAIN, cache='memory')
    for i in [i for i in range(13) if dataset.cache.get(i) is not None]:
        dataset.cache.get(i)[:] = 99  # in the block that workers see, not in a copy of the files
    shutil.rmtree(root)
    samples = ReadableSamples(dataset)
    loader = DataLoader(samples, 13, num_workers=1, multiprocessing_context=method, timeout=60)
    batch = next(iter(loader))
    assert batch['inputs'].shape == (13, 3, 16, 16) and batch['inputs'].unique().tolist() == [99]
    assert samples.num_broken == 1


def loader_config(folder, num_workers, wrap=lambda dataset: dataset, **options):
    return {
        'batch_size': 4, 'num_workers': num_workers, 'persistent_workers': num_workers > 0, 'drop_last': True,
        'sampler': {'type': 'DefaultSampler', 'shuffle': True}, 'collate_fn': {'type': 'default_collate'},
        'dataset': wrap({'type': 'mae_mm.ImageFolder', 'data_root': str(folder), 'pipeline': TRAIN, **options})}


@pytest.mark.parametrize('num_workers', [0, 2])
def test_loader_of_the_runner_repeats_with_its_seed(folder, num_workers):
    epochs = []
    for cache in ('none', 'memory'):
        np.random.seed(0)
        loader = Runner.build_dataloader(loader_config(folder, num_workers, cache=cache), seed=0)
        epochs.append([torch.cat([batch['inputs'] for batch in loader]) for _ in range(2)])
        assert epochs[-1][0].shape == (12, 3, 16, 16)
    assert all(map(torch.equal, *epochs))  # both runs agree
    assert not torch.equal(*epochs[0])  # two epochs differ


@pytest.mark.parametrize('wrap, length', [
    (lambda d: {'type': 'RepeatDataset', 'times': 2, 'dataset': d}, 24),
    (lambda d: {'type': 'ConcatDataset', 'datasets': [d, {**d, 'indices': 4}]}, 16),
])
def test_loader_with_wrapped_data_sets(folder, wrap, length):
    loader = Runner.build_dataloader(loader_config(folder, 0, wrap), seed=0)
    batches = list(loader)
    assert isinstance(loader.dataset, RepeatDataset | ConcatDataset) and len(loader.dataset) == length
    assert sum(len(b['img_path']) for b in batches) == length and batches[0]['inputs'].shape == (4, 3, 16, 16)


def test_torch_subset(folder):
    batch = next(iter(DataLoader(Subset(ImageFolder(folder, TEST), [7, 2]), 2)))
    assert batch['sample_idx'].tolist() == [7, 2]


def test_lazy_init_looks_for_files_later(tmp_path):
    dataset = ImageFolder(tmp_path, TEST, lazy_init=True)
    save(tmp_path / 'a.png')
    assert len(dataset) == 1 and dataset[0]['inputs'].shape == (3, 16, 16)


def test_resolves_by_scope(folder):
    assert isinstance(DATASETS.build({'type': 'mae_mm.ImageFolder', 'data_root': str(folder)}), ImageFolder)
    assert issubclass(DecodeError, ValueError) and isinstance(pickle.loads(pickle.dumps(DecodeError('x'))), DecodeError)


def test_a_list_of_names_replaces_the_search(folder, tmp_path, monkeypatch):
    every = ImageFolder(folder, TEST)
    names = ['n03/5.png', 'n02/ü.tiff', 'a.JPG']
    write_names(tmp_path / 'names.txt', names)
    monkeypatch.setattr(module, 'find_images', None)
    for given in (names, tmp_path / 'names.txt'):
        some = ImageFolder(folder, TEST, names=given)
        assert [*some.relative_names()] == paths(some) == names
        assert torch.equal(some[0]['inputs'], every[-1]['inputs'])
    assert paths(ImageFolder(folder, names=names, indices=-2)) == names[1:]
    with pytest.raises(FileNotFoundError, match='no image'):
        ImageFolder(folder, names=[])


def test_lists_keep_every_name(tmp_path):
    names = ['a b.png', 'n/\udcff.jpg', 'x\u2028y.png', 'c\rd.png', 'ü/#1.png']
    write_names(tmp_path / 'names.txt', names)
    assert [*read_names(tmp_path / 'names.txt')] == names
    assert [file.name for file in tmp_path.iterdir()] == ['names.txt']
