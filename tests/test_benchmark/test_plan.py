"""Plans from short runs at tiny scale, whose true size and steps are known."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from helpers.reliability import ALONE, BATCH, EPOCH, IMAGES, save_images, tiny_config, train
from helpers.tools import DEMO, run, run_tool, tiny
from mmengine.config import Config

from mae_mm.benchmark import short_run
from mae_mm.benchmark.plan import duration, options, plan, report
from mae_mm.benchmark.short_run import Measured, cycle, largest_on_gpu, measure_what_fits

FOUND = Measured(
    batch=8, iteration=0.5, step=0.4, loading=100.0, one_worker=50.0, start=10.0, validation=20.0, save=1.0,
    checkpoint=1000, host=3e9, device=0.0, largest=64, images=85, held_out=16, cache=0.0)


def config(**loader: object) -> Config:
    return Config(dict(
        train_dataloader=dict(drop_last=True, num_workers=2, dataset=dict(type='mae_mm.ImageFolder', cache='none'),
                              **loader),
        train_cfg=dict(max_epochs=6, val_interval=4), optim_wrapper=dict(), default_hooks=dict(
            checkpoint=dict(interval=2, max_keep_ckpts=2))))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_images(tmp_path / 'images')


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    (tmp_path / 'scratch').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'scratch'))
    return tmp_path / 'scratch'


def test_plan_by_hand() -> None:
    whole = plan(config(), FOUND, wanted=8)
    assert whole.steps == 6 * 10  # 85 images in batches of 8, the last one dropped
    assert whole.validations == 2 and whole.seconds == 10 + 60 * 0.5 + 2 * 20 + 3 * 1
    assert whole.disk == 3 * 1000  # two of three are kept, one more while it is written
    assert whole.rate == 16 and whole.bottleneck == 'computing' and whole.accumulate == 1
    assert options(config(), FOUND, whole) == []
    two = plan(config(), FOUND, 8, gpus=2)
    assert two.steps == 6 * 5 and two.rate == 32 and two.seconds == 10 + 30 * 0.5 + 20 + 3
    by_iter = config()
    by_iter.train_cfg = dict(max_iters=1000, val_interval=100)
    assert plan(by_iter, FOUND, 32)[:3] == (4000, 10 + 4000 * 0.5 + 10 * 20 + 500, 10)  # four steps for an update


def test_slow_loading_and_small_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'cpu_count', lambda: 16)
    slow = FOUND._replace(loading=10.0, one_worker=5.0, iteration=0.8, step=0.1)
    whole = plan(config(), slow, wanted=32)
    assert whole.bottleneck == 'loading' and whole.accumulate == 4
    assert whole.workers == 16  # 80 images/s are needed, a fifth in reserve
    assert options(config(), slow, whole) == [
        'train_dataloader.batch_size=8', 'optim_wrapper.accumulative_counts=4', 'train_dataloader.num_workers=16',
        'train_dataloader.dataset.cache=memory']
    lines = report(config(), slow, whole, 1, '/')
    assert 'loading is the bottleneck' in lines[1] and '2 workers, 5 in one process' in lines[3]
    assert lines[6] == 'batch   about 64 images fit in a step'
    assert report(config(), FOUND._replace(largest=6050), whole, 1, '/')[6] == 'batch   all 85 images fit in a step'
    assert 'TOO LITTLE' in report(config(), slow, whole._replace(disk=1e18), 1, '/nowhere/else')[-1]


@pytest.mark.parametrize('seconds, text', [(90, '1.5 minutes'), (7200, '2 hours'), (864000, '10 days')])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_measured_is_what_a_run_has(images: Path, tmp_path: Path, scratch: Path) -> None:
    cfg = tiny_config(images, tmp_path / 'unused', **ALONE)
    before = cfg.pretty_text
    found = measure_what_fits(cfg, seconds=0.5)
    assert (found.images, found.held_out, found.batch) == (IMAGES, IMAGES, BATCH) and found.cache == 0
    assert 0 < found.step <= found.iteration and min(found.loading, found.one_worker, found.validation, found.save) > 0
    assert found.host > 1e8 and found.device == 0 and found.largest >= BATCH
    assert not os.listdir(scratch) and not (tmp_path / 'unused').exists() and cfg.pretty_text == before
    whole = plan(cfg, found, BATCH)
    real = train(tiny_config(images, tmp_path / 'run', **ALONE))
    assert whole.steps == real.iter == 4 * EPOCH
    assert found.checkpoint == pytest.approx((tmp_path / 'run/epoch_4.pth').stat().st_size, rel=0.05)


def test_cache_is_extrapolated(images: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_run, 'CACHED', 12)
    cfg = tiny_config(images, tmp_path, **{**ALONE, 'train_dataloader.dataset.cache': 'memory'})
    found = measure_what_fits(cfg, seconds=0.1)
    assert found.images == IMAGES and found.cache == pytest.approx(IMAGES * 64 * 48 * 3)


def test_nothing_is_left_after_ctrl_c(
        images: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        assert os.listdir(scratch)
        raise KeyboardInterrupt

    monkeypatch.setattr(short_run, 'time_validation', interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure_what_fits(tiny_config(images, tmp_path / 'unused', **ALONE), seconds=0.1)
    assert not os.listdir(scratch)


def test_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measure(cfg: Config, seconds: float, folder: str) -> Measured:
        tried.append(cfg.train_dataloader.batch_size)
        if tried[-1] > 16:
            raise torch.OutOfMemoryError
        return FOUND._replace(batch=tried[-1])

    monkeypatch.setattr(short_run, 'measure', measure)
    assert measure_what_fits(config(batch_size=64)).batch == 16 and tried == [64, 32, 16]
    monkeypatch.setattr(short_run, 'measure', lambda *args: measure(config(batch_size=99), 0, ''))
    with pytest.raises(ValueError, match='one image does not fit'):
        measure_what_fits(config(batch_size=2))


@pytest.mark.parametrize('room', [8, 11, 32, 47, 10**9])
def test_largest_batch_by_trial(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapper:
        def zero_grad(self) -> None:
            pass

    class Run:
        optim_wrapper = Wrapper()

    def step(runner: Run, batch: dict, size: int) -> None:
        if size > room:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(short_run, 'try_step', step)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    found = largest_on_gpu(Run(), {}, 8)
    assert (room == 10**9 and found >= 8 * short_run.MOST / 2) or found <= room < 1.5 * found


def test_cycled_batch() -> None:
    batch = dict(inputs=torch.tensor([1, 2, 3]), paths=['a', 'b'], name='x')
    grown = cycle(batch, 5)
    assert grown['inputs'].tolist() == [1, 2, 3, 1, 2] and grown['paths'] == list('ababa') and grown['name'] == 'x'


@pytest.mark.integration
def test_tool(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, scratch: Path) -> None:
    save_images(tmp_path / 'photos', 70)
    flags = tiny(images, **{'train_dataloader.batch_size': 2})
    run_tool('plan', DEMO, '--data', tmp_path / 'photos', '--seconds', 0.2, '--work-dir', tmp_path / 'w', *flags)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'images  38 to train on, 32 held out' and lines[-1].startswith(
        f'  python tools/train.py {DEMO} --data {tmp_path}/photos --work-dir {tmp_path}/w --cfg-options ')
    assert not os.listdir(scratch) and not (tmp_path / 'w').exists()
    assert lines[4].startswith(f'run     {40 * 19} steps, ')
    refused = run('tools/plan.py', DEMO, '--data', str(tmp_path / 'none'))
    assert refused.returncode == 2 and f'--data {tmp_path}/none: no such file or folder' in refused.stderr
