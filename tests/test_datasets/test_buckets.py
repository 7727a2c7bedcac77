"""Images of several shapes: the nearest size, batches of one size, and what a run makes of them."""

import copy
import os

import numpy as np
import pytest
import torch
from helpers.configs import recipe
from helpers.images import encode, photo
from helpers.tiny import DECODER, ENCODER
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import BatchSampler

from mae_mm.datasets.buckets import BucketBatchSampler, join_small
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.image_tar import ImageTar
from mae_mm.datasets.pack import pack
from mae_mm.datasets.transforms import LoadRandomResizedCrop
from mae_mm.engine.data_check import check_size
from mae_mm.engine.loops.batches import build_loader
from mae_mm.visualization.panel_hook import held_out_batch

SIZES = [(32, 32), (16, 64), (64, 16)]  # height, width: 16 patches of 8 each
SHAPES = [(40, 44), (30, 110), (100, 28)]  # of the images, one for each size
COUNTS = [9, 7, 5]
CROP = [dict(type='mae_mm.LoadRandomResizedCrop', size=32)]
CENTRE = [dict(type='mae_mm.LoadResizeCenterCrop', size=32)]


def fill(folder, counts):
    """As many images of each of `SHAPES`, in turn."""
    folder.mkdir()
    shapes = [shape for i in range(max(counts)) for shape, count in zip(SHAPES, counts, strict=True) if i < count]
    for i, shape in enumerate(shapes):
        (folder / f'{i:02}.png').write_bytes(encode(Image.fromarray(photo(*shape, seed=i)), 'PNG'))
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp('shapes') / 'images', COUNTS)


def sampler_of(dataset, shuffle=True, rank=0, world=1):
    sampler = DefaultSampler(dataset, shuffle=shuffle, seed=3)
    sampler.rank, sampler.world_size = rank, world
    return sampler


def test_each_image_gets_the_size_of_the_nearest_aspect(folder):
    data = ImageFolder(str(folder), CENTRE, crop_sizes=SIZES)
    assert np.bincount(data.buckets).tolist() == COUNTS
    for i, bucket in enumerate(data.buckets):
        assert data[i]['inputs'].shape == (3, *SIZES[bucket]) and set(data[i]) == {'inputs', 'img_path', 'sample_idx'}
    assert data.get_subset([1, 4]).buckets.tolist() == data.buckets[[1, 4]].tolist()


def test_headers_of_rotated_broken_and_packed_images(tmp_path):
    wide = Image.fromarray(photo(30, 110))
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / 'images').mkdir()
    for name, data in dict(a=encode(wide, 'JPEG'), b=encode(wide, 'JPEG', exif=turned), c=b'no image').items():
        (tmp_path / 'images' / f'{name}.jpg').write_bytes(data)
    assert ImageFolder(str(tmp_path / 'images'), CROP, crop_sizes=SIZES).buckets.tolist() == [1, 2, 0]
    pack(str(tmp_path / 'images'), str(tmp_path / 'tars'))
    assert ImageTar(str(tmp_path / 'tars'), CROP, crop_sizes=SIZES).buckets.tolist() == [1, 2, 0]


def test_a_random_crop_has_the_aspect_of_its_size(folder):
    data = ImageFolder(str(folder), [], crop_sizes=SIZES)
    crop = LoadRandomResizedCrop(32, scale=(0.2, 0.4))
    for i in (1, 2):
        _, _, height, width = crop(data.get_data_info(i))['crop']
        stretch = SIZES[data.buckets[i]][1] / SIZES[data.buckets[i]][0]
        assert 0.7 < width / height / stretch < 1.4
    assert 'size' not in crop(data.get_data_info(0))


def test_batches_have_one_size_and_no_image_twice(folder):
    data = ImageFolder(str(folder), CROP, crop_sizes=SIZES)
    batches = BucketBatchSampler(sampler_of(data), 2)
    epochs = []
    for epoch in range(3):
        batches.sampler.set_epoch(epoch)
        epochs.append(list(batches))
        assert all(len(batch) == 2 and len(set(data.buckets[batch])) == 1 for batch in epochs[-1])
        images = [index for batch in epochs[-1] for index in batch]
        assert len(epochs[-1]) == len(batches) == 4 + 3 + 2 and len(set(images)) == len(images)
    assert len({str(epoch) for epoch in epochs}) == 3
    assert list(batches) == epochs[-1]  # again: a run can resume
    assert set(range(21)) == {index for epoch in epochs for batch in epoch for index in batch}


@pytest.mark.parametrize('world', [1, 2])
def test_with_one_size_the_batches_are_those_of_the_default(folder, world):
    data = ImageFolder(str(folder), CROP, crop_sizes=SIZES[:1], indices=20)
    for rank in range(world):
        default = BatchSampler(sampler_of(data, rank=rank, world=world), 2, drop_last=True)
        default.sampler.num_samples, default.sampler.total_size = 20 // world, 20
        assert list(BucketBatchSampler(sampler_of(data, rank=rank, world=world), 2)) == list(default)


@pytest.mark.parametrize('world', [1, 2, 4])
def test_an_evaluation_sees_every_image_once(folder, world):
    data = ImageFolder(str(folder), CENTRE, crop_sizes=SIZES)
    ranks = [BucketBatchSampler(sampler_of(data, False, rank, world), 2) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert len({len(rank) for rank in ranks} | {len(rank) for rank in batches}) == 1
    for step in zip(*batches, strict=True):
        assert len({len(batch) for batch in step}) == 1
        assert all(len(set(data.buckets[batch])) == 1 for batch in step)
    results = [[index for batch in rank for index in batch] for rank in batches]
    collected = [index for row in zip(*results, strict=True) for index in row][:21]  # as mmengine does
    assert sorted(collected) == list(range(21))


def test_small_sizes_join_the_nearest():
    buckets = np.repeat(np.arange(4, dtype=np.uint8), [9, 2, 1, 8])
    sizes = [(32, 32), (16, 64), (8, 128), (64, 16)]
    assert np.bincount(join_small(buckets, sizes, 3), minlength=4).tolist() == [9, 3, 0, 8]
    assert np.bincount(join_small(buckets, sizes, 4), minlength=4).tolist() == [12, 0, 0, 8]
    assert np.bincount(join_small(buckets, sizes, 99), minlength=4).tolist()[1:3] == [0, 0]
    assert np.bincount(buckets).tolist() == [9, 2, 1, 8]


def test_training_joins_sizes_that_fill_no_batch(folder):
    data = ImageFolder(str(folder), CROP, crop_sizes=SIZES)
    BucketBatchSampler(sampler_of(data, shuffle=False), 6)
    assert np.bincount(data.buckets).tolist() == COUNTS
    BucketBatchSampler(sampler_of(data), 6)
    assert np.bincount(data.buckets, minlength=3).tolist() == [14, 7, 0]


def test_a_broken_image_is_replaced_by_one_of_its_size(tmp_path):
    data = ImageFolder(str(fill(tmp_path / 'images', COUNTS)), CROP, crop_sizes=SIZES)
    for index in (1, 5):  # after their headers were read
        os.truncate(data.get_data_info(index)['img_path'], 60)
    config = dict(
        batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'),
        batch_sampler=dict(type='mae_mm.BucketBatchSampler'))
    loader = build_loader(config, data, seed=0)
    for epoch in range(4):
        loader.batch_sampler.go_to(epoch, 0)
        assert sum(len(batch['inputs']) for batch in loader) == 18
    assert 1 <= loader.dataset.num_broken <= 2


def run(folder, work_dir, leave_out='', **dataset):
    """One epoch of a tiny MAE with validation: the weights and the validation's numbers."""
    cfg = Config(copy.deepcopy(recipe('mae_pretrain').to_dict()))
    cfg.merge_from_dict(dict(
        work_dir=str(work_dir), param_scheduler=[],
        train_cfg=dict(max_epochs=1, val_interval=1), log_level='WARNING', optim_wrapper=dict(dtype='float32')))
    cfg.model.backbone.update(ENCODER)
    cfg.model.neck.update(DECODER)
    for name, pipeline in dict(train=CROP, val=CENTRE).items():
        loader = cfg[f'{name}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
        loader.dataset.update(data_root=str(folder), pipeline=pipeline, **dataset)
        if dataset and name != leave_out:
            loader.batch_sampler = dict(type='mae_mm.BucketBatchSampler')
    cfg.experiment_name = work_dir.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_a_run_trains_and_validates_on_all_sizes(folder, tmp_path):
    runner = run(folder, tmp_path, crop_sizes=SIZES)
    assert runner.iter == 9
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['val/recon/loss'].current())
    assert (tmp_path / 'panel.png').exists()
    images, numbers = held_out_batch(runner.val_dataloader.dataset, 8)
    assert len(images) == len(numbers) and tuple(images.shape[2:]) in SIZES


def test_square_images_train_to_the_same_bits(tmp_path):
    folder = fill(tmp_path / 'images', [8, 0, 0])
    plain = run(folder, tmp_path / 'plain').model.state_dict()
    buckets = run(folder, tmp_path / 'buckets', crop_sizes=SIZES).model.state_dict()
    assert all(torch.equal(plain[name], buckets[name]) for name in plain)


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match='crop_sizes='):
        BucketBatchSampler(sampler_of(ImageFolder(str(folder), CROP)), 2)
    with pytest.raises(ValueError, match='DefaultSampler, got InfiniteSampler'):
        BucketBatchSampler(InfiniteSampler(ImageFolder(str(folder), CROP, crop_sizes=SIZES)), 2)


@pytest.mark.parametrize('loader', ['train', 'val'])
def test_a_loader_without_the_sampler_is_named(folder, tmp_path, loader):
    with pytest.raises(ValueError, match=rf'{loader}_dataloader=dict\(batch_sampler='):
        run(folder, tmp_path, leave_out=loader, crop_sizes=SIZES)


@pytest.mark.parametrize(('sizes', 'message'), [
    ([(48, 48), (50, 80)], r'train_dataloader\.dataset\.crop_sizes\.1=\(50, 80\): .* e\.g\. 48x80'),
    ([64, (48, 80)], r'crop_sizes\.0=64: must be \(height, width\)')])
def test_sizes_that_patches_do_not_fill_are_named(sizes, message):
    cfg = Config(copy.deepcopy(recipe('demo/mae_pretrain_shapes').to_dict()))
    cfg.train_dataloader.dataset.crop_sizes = sizes
    with pytest.raises(ValueError, match=message):
        check_size(cfg, cfg.train_dataloader.dataset, 'train_dataloader.dataset')
