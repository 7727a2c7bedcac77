"""A run stopped anywhere and resumed ends with the bits of the run that was not."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.reliability import (
    ALONE,
    BATCH,
    DEMO,
    EPOCH,
    TINY,
    StopAt,
    build,
    different,
    logged,
    restore_signals,
    save_images,
    state,
    tiny_config,
    train,
)
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mae_mm.engine.loops import batches
from mae_mm.engine.loops.batches import NumberedBatches, SeededSamples, build_loader, end_workers, start_worker
from mae_mm.engine.loops.seeding import derive_seed
from mae_mm.engine.resume import changes_without_effect, read_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """End state and log of the run that nobody stops."""
    work = tmp_path_factory.mktemp('whole')
    return state(train(tiny_config(images, work))), logged(work)


class Count(Dataset):
    """Samples that tell their index, what was drawn for them, and that they were read."""

    def __init__(self, length: int = 10) -> None:
        self.length, self.read = length, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[int, float]:
        self.read.append(i)
        return i, np.random.rand()


def test_seeds_are_a_function_of_their_key() -> None:
    assert derive_seed(0) == 893442142816765029  # on every machine and version
    seeds = {derive_seed(*key) for key in [(0,), (0, 0), (0, 1), (1, 0), (2**62, 0), (-1, 0)]}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize('num_workers', [0, 3])
def test_a_loader_begins_in_the_middle_without_reading_what_was_used(num_workers: int) -> None:
    dataset = Count()
    config = dict(
        batch_size=2, num_workers=num_workers, drop_last=True, collate_fn=list,
        sampler=dict(type='DefaultSampler', shuffle=True))
    loader = build_loader(config, dataset, seed=1)
    loader.batch_sampler.go_to(3, 0)
    whole = list(loader)
    read, dataset.read = dataset.read, []
    loader.batch_sampler.go_to(3, 2)
    rest = list(loader)
    assert len(whole) == 5 and rest == whole[2:] and len(loader) == 5
    assert num_workers or (len(read) == 10 and dataset.read == read[4:])
    loader.batch_sampler.go_to(4, 0)
    assert sorted(i for batch in loader for i, _ in batch) == list(range(10)) and list(loader) != whole


def test_workers_do_not_change_what_is_drawn() -> None:
    config = dict(batch_size=2, collate_fn=list, sampler=dict(type='DefaultSampler', shuffle=True))
    one, three = (list(build_loader(dict(config, num_workers=n), Count(), seed=1)) for n in (0, 3))
    assert one == three and len({draw for batch in one for _, draw in batch}) == 10


@pytest.mark.parametrize(('free', 'workers', 'told'), [
    (64e6, 8, True), (64e6, 1, False), (64e6, 0, False), (2e9, 8, False)])
def test_little_shared_memory_is_told_before_a_worker_is_killed(monkeypatch, free, workers, told) -> None:
    """A container's default of 64 MB, and batches of 9.6 MB, of which each worker prepares two."""
    monkeypatch.setattr(batches.shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
    lines = []
    monkeypatch.setattr(batches, 'print_log', lambda line, *rest: lines.append(line))
    images = [dict(inputs=torch.zeros(3, 224, 224, dtype=torch.uint8), name='x')] * 100
    options = dict(num_workers=workers, batch_size=64, sampler=dict(type='DefaultSampler', shuffle=False))
    batches.check_shared_memory(build_loader(options, images, seed=0))
    out = ' '.join(lines)
    assert ('64 MB free, and up to 154 MB of batches' in out and '--shm-size' in out) is told


def test_workers_heed_their_parent_alone() -> None:
    config = dict(
        batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list, worker_init_fn=start_worker,
        sampler=dict(type='DefaultSampler', shuffle=False))
    loader = build_loader(config, Count(), seed=1)
    batches = iter(loader)
    next(batches)
    worker, = multiprocessing.active_children()
    for name in ('SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGTERM'):
        subprocess.run(['kill', f'-{name[3:]}', str(worker.pid)], check=True)
    assert len(list(batches)) == 4 and len(list(loader)) == 5 and worker.is_alive()
    worker.terminate()  # as multiprocessing does when this process ends
    worker.join(timeout=20)
    assert not worker.is_alive()


def test_workers_end_in_order() -> None:
    """By themselves, which takes no time: one that is ended by a signal has another exit code."""
    loader = DataLoader(range(99), num_workers=2, persistent_workers=True)
    iterator = iter(loader)
    next(iterator)
    end_workers()
    assert [worker.exitcode for worker in iterator._workers] == [0, 0]


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_batches_count_on_from_any_number(sampler: type) -> None:
    def first(start: int, count: int) -> list:
        inner = sampler(Count(), shuffle=True, seed=0)
        numbered = NumberedBatches(BatchSampler(inner, 3, True), inner, 3, seed=0)
        numbered.go_to(0, start)
        iterator = iter(numbered)
        return [next(iterator) for _ in range(count)]

    assert first(2, 1) == first(0, 3)[2:]


def test_a_wrapped_data_set_shows_its_own_attributes() -> None:
    wrapped = SeededSamples(Count())
    assert wrapped.read == [] and len(wrapped) == 10 and not hasattr(wrapped, 'metainfo')


@pytest.mark.parametrize('stop', [
    dict(iteration=3), dict(iteration=EPOCH), dict(iteration=2 * EPOCH + 1), dict(validation=1), dict(validation=3)])
def test_stopped_and_resumed_equals_whole(images: Path, tmp_path: Path, whole: tuple[dict, dict], stop: dict) -> None:
    train(tiny_config(images, tmp_path), hooks=(StopAt(**stop),))
    runner = train(tiny_config(images, tmp_path), resume=True)
    assert different(whole[0], state(runner)) == []
    assert logged(tmp_path) == whole[1]


def test_resumed_inside_an_epoch_with_averaged_weights(images: Path, tmp_path: Path) -> None:
    ema = dict(type='EMAHook', momentum=0.1, priority='ABOVE_NORMAL')
    options = {'custom_hooks': [ema], 'train_cfg.max_epochs': 2, **ALONE}
    runners = [train(tiny_config(images, tmp_path / 'whole', **options))]
    train(tiny_config(images, tmp_path / 'cut', **options, **{'default_hooks.checkpoint.minutes': 0}),
          hooks=(StopAt(EPOCH + 3),))
    assert torch.load(tmp_path / 'cut' / 'latest.pth', weights_only=False)['meta']['iter'] > EPOCH
    runners.append(train(tiny_config(images, tmp_path / 'cut', **options), resume=True))
    assert different(*map(state, runners)) == []
    averages = [next(h for h in r.hooks if type(h).__name__ == 'EMAHook').ema_model.state_dict() for r in runners]
    assert different(*averages) == []


def test_iterations_resume_without_reading_what_was_used(images: Path, tmp_path: Path) -> None:
    options = {
        'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=11, val_interval=4),
        'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True), 'log_processor.by_epoch': False,
        'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3, **ALONE,
        'param_scheduler': [dict(type='CosineAnnealingLR', by_epoch=False)]}
    whole = train(tiny_config(images, tmp_path / 'whole', **options))
    train(tiny_config(images, tmp_path / 'cut', **options), hooks=(StopAt(8),))
    resumed = train(tiny_config(images, tmp_path / 'cut', **options), resume=True)
    assert different(state(whole), state(resumed)) == [] and resumed.iter == 11
    assert logged(tmp_path / 'cut') == logged(tmp_path / 'whole')


@pytest.mark.parametrize('stop', [3, EPOCH])
def test_another_batch_size_restarts_the_epoch_with_a_warning(images: Path, tmp_path: Path, stop: int) -> None:
    options = {'default_hooks.checkpoint.minutes': 0, 'train_cfg.max_epochs': 2, **ALONE}
    train(tiny_config(images, tmp_path, **options), hooks=(StopAt(stop),))
    runner = train(tiny_config(images, tmp_path, **options, **{'train_dataloader.batch_size': BATCH // 2}), resume=True)
    assert runner.iter == 2 * EPOCH * 2
    assert f'an epoch had {EPOCH} batches' in ''.join(p.read_text() for p in tmp_path.glob('*/*.log'))


def test_seed_of_a_run_without_one_is_resumed(images: Path, tmp_path: Path) -> None:
    options = {'randomness.seed': None, 'train_cfg.max_epochs': 2, **ALONE}
    first = train(tiny_config(images, tmp_path, **options), hooks=(StopAt(EPOCH + 2),))
    second = train(tiny_config(images, tmp_path, **options), resume=True)
    assert isinstance(second, Runner) and first.seed == second.seed == second.train_loop._seed


def wait_for(path: Path, process: subprocess.Popen, text: str, seconds: float = 240) -> None:
    """Until a log below a folder has a text."""
    end = time.monotonic() + seconds
    while not any(text in log.read_text() for log in path.glob('*/*.log')):
        assert process.poll() is None and time.monotonic() < end, f'{text!r} was not logged'
        time.sleep(0.05)


def command(images: Path, work: Path, *flags: str, **options: object) -> list[str]:
    """`tools/train.py` on the tiny recipe, long enough to be caught in the middle."""
    cfg = {'train_cfg.max_epochs': 50, 'train_cfg.val_interval': 50, 'default_hooks.checkpoint.interval': 1, **options}
    paths = {f'{loader}_dataloader.dataset.data_root': images for loader in ('train', 'val', 'test')}
    return [sys.executable, 'tools/train.py', DEMO, '--work-dir', str(work), *flags, '--cfg-options',
            *(f'{key}={value}' for key, value in {**TINY, **paths, **cfg}.items())]


def test_sigterm_writes_a_checkpoint_and_ends_with_75(images: Path, tmp_path: Path) -> None:
    """The whole process group gets the signal, workers too, as Ctrl-C and Slurm send it."""
    process = subprocess.Popen(
        command(images, tmp_path), cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, text=True)
    wait_for(tmp_path, process, 'Epoch(train)')
    os.killpg(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 75, error[-2000:]
    assert 'Traceback' not in error
    saved = torch.load(tmp_path / 'latest.pth', weights_only=False)['meta']
    # After the last batch of an epoch the epoch is not over yet: its hooks and its validation are to come.
    assert 0 <= saved['iter'] - saved['epoch'] * EPOCH <= EPOCH


def test_settings_without_effect_are_reported(tmp_path: Path) -> None:
    images = save_images(tmp_path / 'images')
    options = {**ALONE, 'train_cfg.max_epochs': 2}
    first = train(tiny_config(images, tmp_path / 'run', **options))
    rate = first.cfg.optim_wrapper.optimizer.lr
    for changes, reported in (
            ({}, []),
            ({'optim_wrapper.clip_grad.max_norm': 1.0, 'train_dataloader.num_workers': 0}, []),
            ({'optim_wrapper.optimizer.lr': 1e-5, 'train_cfg.max_epochs': 3, 'param_scheduler.1.eta_min': 1e-6},
             [f'optim_wrapper.optimizer.lr: {rate} -> 1e-05', 'param_scheduler.1.eta_min: not set -> 1e-06'])):
        for old in tmp_path.glob('run/*/*.log'):
            old.unlink()
        runner = build(tiny_config(images, tmp_path / 'run', **{**options, **changes}), resume=True)
        log = ''.join(path.read_text() for path in tmp_path.glob('run/*/*.log'))
        assert ('WITHOUT EFFECT' in log) is bool(reported)
        assert all(f'\n  {line}\n' in log for line in reported)
        assert ('ends after 3 epochs; the learning rate keeps the schedule of 2 epochs' in log) is bool(reported)
    runner.train()  # as reported: the last lr of the schedule that has ended
    restore_signals(runner)
    before, after = (one.optim_wrapper.optimizer.param_groups[0]['lr'] for one in (first, runner))
    assert before == after and first.optim_wrapper.optimizer.param_groups[0]['initial_lr'] == pytest.approx(rate)


def test_configs_are_parsed_and_not_run() -> None:
    text = "a = dict(b=[dict(c=1, d=(2, -3.0)), {'e': None}], f=__import__('os').abort())"
    assert read_settings(text) == {
        'a.b.0.c': '1', 'a.b.0.d.0': '2', 'a.b.0.d.1': '-3.0', 'a.b.1.e': 'None', 'a.f': "__import__('os').abort()"}
    assert read_settings('a = (') == {} == read_settings('\0')
    assert changes_without_effect('param_scheduler = []', 'model = dict(type=1)\nparam_scheduler = []') == []
