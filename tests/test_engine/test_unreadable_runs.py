"""Runs whose images cannot be read: in training, in validation, a few of them, too many, or all."""

import os
import signal
from pathlib import Path

import pytest
import torch
from helpers.reliability import (
    ALONE,
    EPOCH,
    IMAGES,
    build,
    different,
    restore_signals,
    save_images,
    state,
    tiny_config,
    train,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.datasets.limits import printable
from mae_mm.engine import reliability
from mae_mm.engine.exits import exit_on_user_error
from mae_mm.stopping import TrainingStopped, UnreadableData

pytestmark = pytest.mark.integration

SHORT = {**ALONE, 'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_images(tmp_path / 'images')


class At(Hook):
    """Does something after an iteration."""

    def __init__(self, iteration: int, action) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            self.action()


def stopped(cfg: Config, resume: bool = False, hooks: tuple[Hook, ...] = (), kind: type = TrainingStopped) -> str:
    """What a run says that stops itself."""
    runner = build(cfg, resume, hooks)
    with pytest.raises(kind) as error:
        reliability.train(runner)
    restore_signals(runner)
    return str(error.value)


def log(work: Path) -> str:
    return ''.join(path.read_text() for path in work.glob('*/*.log'))


def test_a_validation_image_is_listed_and_replaced(images: Path, tmp_path: Path) -> None:
    val = save_images(tmp_path / 'val')
    (val / '07.jpg').write_bytes(b'')
    cfg = tiny_config(images, tmp_path / 'run', **SHORT, **{'val_dataloader.dataset.data_root': str(val)})
    runner = build(cfg)
    seen = []
    runner.val_evaluator.process = runner.val_loop.evaluator.process = lambda data_samples, data_batch: seen.extend(
        Path(path).name for path in data_batch['img_path'])
    runner.val_loop.evaluator.evaluate = lambda size: {'recon/loss': 0.0}
    reliability.train(runner)
    names = sorted(f'{i:02}.jpg' for i in range(IMAGES) if i != 7)
    assert sorted(seen[:IMAGES]) == sorted([*names, '08.jpg'])  # the next one takes its place
    assert (tmp_path / 'run' / 'bad_images.txt').read_text() == f'{val / "07.jpg"}\n'
    assert f'1 of {IMAGES} validation images could not be read' in log(tmp_path / 'run')


def test_too_many_validation_images_stop_the_run_until_they_are_fixed(images: Path, tmp_path: Path) -> None:
    val = save_images(tmp_path / 'val')
    for name in ('07.jpg', '08.jpg'):
        (val / name).write_bytes(b'')
    options = {**SHORT, 'val_dataloader.dataset.data_root': str(val)}
    text = stopped(tiny_config(images, tmp_path / 'run', **options))
    assert f'2 of {IMAGES} validation images could not be read' in text and '1.00%' in text
    save_images(val)
    runner = build(tiny_config(images, tmp_path / 'run', **options), resume=True)
    assert runner._load_from.endswith('epoch_1.pth')
    reliability.train(runner)
    assert runner.epoch == 2


def test_where_each_image_has_annotations_the_file_is_named(images: Path, tmp_path: Path) -> None:
    val = save_images(tmp_path / 'val')
    (val / '07.jpg').write_bytes(b'')
    cfg = tiny_config(images, tmp_path / 'run', **SHORT, **{
        'val_dataloader.dataset.data_root': str(val), 'val_cfg.replace': False})
    assert str(val / '07.jpg') in stopped(cfg, kind=UnreadableData)
    for scope, replace in (('mmdet', False), ('mmseg', False), ('mmpretrain', True)):
        cfg = Config(dict(default_scope=scope, train_cfg=dict(max_epochs=1), val_cfg=dict(type='ValLoop')))
        reliability.make_reliable(cfg)
        assert cfg.val_cfg == dict(type='mae_mm.ValLoop', replace=replace)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_folder_of_empty_files_ends_with_one_message(
        images: Path, tmp_path: Path, workers: int, capsys: pytest.CaptureFixture) -> None:
    for path in images.iterdir():
        path.write_bytes(b'')
    val = save_images(tmp_path / 'val')
    cfg = tiny_config(images, tmp_path / 'run', **{
        **SHORT, 'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': False,
        'val_dataloader.dataset.data_root': str(val)})
    runner = build(cfg)
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(lambda: reliability.train(runner))
    restore_signals(runner)
    message = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 3
    assert message.startswith('stopped: 101 images in a row cannot be read') and '--resume' in message
    assert str(images) in message and 'empty file' in message


def test_a_mount_that_is_lost_costs_no_step(images: Path, tmp_path: Path) -> None:
    away = tmp_path / 'away'
    text = stopped(
        tiny_config(images, tmp_path / 'run', **SHORT), kind=UnreadableData,
        hooks=(At(EPOCH + 2, lambda: images.rename(away)),))
    assert '101 images in a row cannot be read' in text and f'{images}/' in text
    saved = torch.load(tmp_path / 'run' / 'latest.pth', weights_only=False)['meta']
    assert saved['iter'] == EPOCH + 2
    away.rename(images)
    runner = build(tiny_config(images, tmp_path / 'run', **SHORT), resume=True)
    reliability.train(runner)
    assert runner.iter == 2 * EPOCH and runner._load_from.endswith('latest.pth')


def test_too_many_bad_images_keep_what_was_trained(images: Path, tmp_path: Path) -> None:
    for name in ('05.jpg', '06.jpg'):
        (images / name).write_bytes(b'')
    options = {**SHORT, 'default_hooks.checkpoint.interval': 2, 'default_hooks.bad_data.interval': 4}
    assert f'2 of {IMAGES} images could not be read' in stopped(tiny_config(images, tmp_path / 'run', **options))
    assert torch.load(tmp_path / 'run' / 'latest.pth', weights_only=False)['meta']['iter'] in (4, EPOCH)
    options |= {'default_hooks.bad_data.max_share': 1.0}
    runners = [train(tiny_config(images, tmp_path / 'run', **options), resume=True),
               train(tiny_config(images, tmp_path / 'whole', **options))]
    assert different(*map(state, runners)) == []


def test_a_resumed_run_goes_on_with_the_list(images: Path, tmp_path: Path) -> None:
    (images / '05.jpg').write_bytes(b'')
    reliability.train(build(tiny_config(images, tmp_path / 'run', **{**SHORT, 'train_cfg.max_epochs': 2})))
    save_images(images)
    (images / '06.jpg').write_bytes(b'')
    reliability.train(build(tiny_config(images, tmp_path / 'run', **{**SHORT, 'train_cfg.max_epochs': 3}), resume=True))
    listed = (tmp_path / 'run' / 'bad_images.txt').read_text().splitlines()
    assert listed == [str(images / '05.jpg'), str(images / '06.jpg')]


def test_a_name_that_is_no_utf8(images: Path, tmp_path: Path) -> None:
    name = os.fsencode(images) + b'/bad\xff.jpg'
    Path(os.fsdecode(name)).write_bytes(b'')
    val = save_images(tmp_path / 'val')
    cfg = tiny_config(images, tmp_path / 'run', **SHORT, **{'val_dataloader.dataset.data_root': str(val)})
    reliability.train(build(cfg))
    assert (tmp_path / 'run' / 'bad_images.txt').read_bytes() == name + b'\n'
    assert r'bad\xff.jpg' in log(tmp_path / 'run')
    assert printable('é.jpg') == 'é.jpg'


def test_a_killed_worker_is_reported_in_one_message(images: Path, tmp_path: Path) -> None:
    def kill() -> None:
        for process in torch.multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    try:
        text = stopped(tiny_config(images, tmp_path / 'run', **{'train_cfg.max_epochs': 9}), hooks=(At(2, kill),))
    finally:  # torch's handler would raise for the other killed workers at any time, in pytest itself
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert 'DataLoader worker' in text and 'memory' in text and '--resume' in text
    assert len(text.splitlines()) == 1
