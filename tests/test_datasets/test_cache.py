"""The memory cache of several training processes: one block for a machine, each image decoded once."""

import fcntl
import os
import time
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from helpers import free_port
from PIL import Image
from torch import multiprocessing
from torch.utils.data import DataLoader

from mae_mm.datasets import cache as module
from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.transforms import LoadResizeCenterCrop

IMAGES = 100


class CountedLoad(LoadResizeCenterCrop):
    """Appends the name of each image that is decoded to a file, and the process that decodes it."""

    def decode(self, data: bytes, results: dict, factor: int = 1) -> np.ndarray:
        with open(Path(results['img_path']).parents[1] / 'decoded.txt', 'a') as file:
            file.write(f'{Path(results["img_path"]).stem} {os.environ["RANK"]}\n')
        time.sleep(0.01 * int(os.environ['RANK']))  # the second process is the slower one
        return super().decode(data, results, factor)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / 'images').mkdir()
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i % 5, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'images/{i:03}.png')
    return tmp_path / 'images'


def _read(rank: int, folder: Path, port: int, options: dict, refuse: bool) -> None:
    """As one of two processes: fill the cache, read it in a worker, and save what was seen."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    if refuse and rank:
        def refusing(path: str, *args: int, open=os.open, **more: object) -> int:
            if path.startswith('/proc/'):
                raise PermissionError('another user')
            return open(path, *args, **more)
        os.open = refusing  # in this process
    dataset = ImageFolder(folder, [CountedLoad(16)], cache='memory', **options)
    blocks = os.fstat(dataset.cache.memory.fd)
    imgs = torch.cat([batch['inputs'] for batch in DataLoader(dataset, 10, num_workers=1)])
    torch.save(dict(imgs=imgs, block=(blocks.st_dev, blocks.st_ino), cached=len(dataset.cache),
                    full=dataset.cache.full, used=dataset.cache.used), folder.parent / f'{rank}.pth')
    torch.distributed.destroy_process_group()


def read_by_two(folder: Path, refuse: bool = False, **options: object) -> tuple[list[dict], list[list[str]]]:
    """What each of two processes saw, and the (image, rank) of each decoding."""
    multiprocessing.start_processes(_read, (folder, free_port(), options, refuse), 2, start_method='fork')
    seen = [torch.load(folder.parent / f'{rank}.pth') for rank in range(2)]
    plain = ImageFolder(folder, [dict(type='mae_mm.LoadResizeCenterCrop', size=16)])
    expected = torch.stack([plain[i]['inputs'] for i in range(IMAGES)])
    assert all(torch.equal(one['imgs'], expected) for one in seen)
    return seen, [line.split() for line in (folder.parent / 'decoded.txt').read_text().splitlines()]


def test_processes_of_a_machine_share_one_block_and_decode_each_image_once(folder: Path) -> None:
    seen, decoded = read_by_two(folder)
    assert seen[0]['block'] == seen[1]['block'] and [one['cached'] for one in seen] == [IMAGES, IMAGES]
    assert sorted(name for name, _ in decoded) == [f'{i:03}' for i in range(IMAGES)]
    assert sorted(rank for _, rank in decoded).count('0') == 52  # 16 in turn


def test_the_bound_is_that_of_the_machine(folder: Path) -> None:
    """What both put into it fits; each image that does not is decoded by both when it is its turn."""
    seen, decoded = read_by_two(folder, cache_gb=1e-4)
    assert all(one['full'] and 90_000 < one['used'] <= 100_000 for one in seen)
    assert seen[0]['cached'] == seen[1]['cached'] < IMAGES
    missing = IMAGES - seen[0]['cached']
    assert len({name for name, _ in decoded}) == IMAGES and len(decoded) >= seen[0]['cached'] + 2 * missing


def test_processes_that_cannot_map_the_block_keep_one_each(folder: Path) -> None:
    seen, decoded = read_by_two(folder, refuse=True)
    assert seen[0]['block'] != seen[1]['block'] and len(decoded) == 2 * IMAGES


def test_processes_with_other_images_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do those of another machine, or of another container."""
    def gather(other: object) -> object:
        return lambda own: [(other(own) if len(own) == 4 else own), own]

    for other in (lambda own: ('elsewhere', *own[1:]), lambda own: (own[0], 'other images', *own[2:])):
        monkeypatch.setattr(module, 'all_gather_object', gather(other))
        assert module.memory_of_machine(10, 'images')[1:] == (0, 1)
    monkeypatch.setattr(module, 'all_gather_object', gather(lambda own: (*own[:2], os.getpid(), own[3])))
    assert module.memory_of_machine(10, 'images')[1:] == (0, 2)


def test_one_thread_of_one_process_reserves_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, inside, most, used = module.SharedMemory(20_000), [], [], []
    flock, other = fcntl.flock, os.open(f'/proc/self/fd/{memory.fd}', os.O_RDWR)  # as another process has it

    def release() -> None:
        used.append(memory.array[:8].view(np.int64).item())
        flock(other, fcntl.LOCK_UN)

    def load(i: int) -> np.ndarray:
        if i == 0:
            flock(other, fcntl.LOCK_EX)
            Timer(0.2, release).start()
        return np.full((1, 1, 1), i, dtype=np.uint8)

    def watched(fd: int, operation: int) -> None:
        inside.append(1) if operation == fcntl.LOCK_EX else inside.pop()
        most.append(len(inside))
        flock(fd, operation)
        time.sleep(0.001)

    monkeypatch.setattr(module, 'memory_of_machine', lambda *args: (memory, 0, 1))
    monkeypatch.setattr(module.fcntl, 'flock', watched)
    monkeypatch.setattr(module.os, 'cpu_count', lambda: 4)
    cache = module.ImageCache(load, range(64), 10_000)
    assert max(most) == 1 and used[0] <= 48 and cache.used == 64  # 48: of the other threads, before it was locked
    assert [cache.get(i).item() for i in range(64)] == [*range(64)]
    os.close(other)
