"""Checkpoints through full disks, killed writers, flipped bits and wrong models."""

import logging
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.reliability import (
    ALONE,
    EPOCH,
    StopAt,
    build,
    different,
    restore_signals,
    save_images,
    state,
    tiny_config,
    train,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.engine.hooks import preemption
from mae_mm.engine.hooks.checkpoint import AtomicBackend
from mae_mm.engine.resume import broken_part, check_unused, choose_checkpoint, newest_checkpoint, read_training_state
from mae_mm.stopping import EXIT_PREEMPTED, TrainingStopped

pytestmark = pytest.mark.integration


class Signal(Hook):
    """Asks this process to stop in an iteration, or in a validation."""

    def __init__(self, number: int, iteration: int | None = None, validation: bool = False) -> None:
        self.number, self.iteration, self.validation = number, iteration, validation

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if self.validation:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A run of three epochs and three checkpoints."""
    work = tmp_path_factory.mktemp('finished')
    return train(tiny_config(images, work, **ALONE, **{'train_cfg.max_epochs': 3}))


@pytest.fixture
def copies(finished: Runner, tmp_path: Path) -> Path:
    """A copy of its work folder."""
    for path in Path(finished.work_dir).glob('*.pth'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit_of_a_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    weight = read_training_state(path)['state_dict']['backbone.blocks.0.mlp.fc1.weight'].clone()
    place = data.find(weight.numpy().tobytes())
    assert place > 0
    data[place + 100] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=False)['meta']['iter'] == 3 * EPOCH  # torch itself sees nothing


DAMAGES = [truncate, flip_a_bit_of_a_weight, lambda path: path.write_bytes(b''),
           lambda path: path.write_bytes(bytes(path.stat().st_size)), lambda path: torch.save(dict(a=1), path)]


@pytest.mark.parametrize('damage', DAMAGES)
def test_the_newest_undamaged_checkpoint_is_taken(
    copies: Path, damage: Callable, monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert newest_checkpoint(copies) == copies / 'epoch_3.pth'
    said = []
    monkeypatch.setattr('mae_mm.engine.resume.print_log', lambda message, *_: said.append(message))
    damage(copies / 'epoch_3.pth')
    assert newest_checkpoint(copies) == copies / 'epoch_2.pth'
    assert 'DAMAGED' in said[0] and 'epoch_3.pth' in said[0] and (copies / 'epoch_3.pth').exists()
    with pytest.raises(ValueError, match='damaged'):
        choose_checkpoint(tiny_config(copies, copies), str(copies / 'epoch_3.pth'))


def test_the_first_process_alone_compares_checksums(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take its choice (`check_resume`); each would read the whole file."""
    flip_a_bit_of_a_weight(copies / 'epoch_3.pth')
    for rank, name in (('0', 'epoch_2.pth'), ('1', 'epoch_3.pth')):
        monkeypatch.setenv('RANK', rank)
        assert newest_checkpoint(copies) == copies / name


def test_order_is_that_of_iterations_not_of_names_or_times(copies: Path) -> None:
    (copies / 'epoch_2.pth').rename(copies / 'epoch_10.pth')
    os.utime(copies / 'epoch_3.pth', (0, 0))
    assert newest_checkpoint(copies) == copies / 'epoch_3.pth'


def test_without_checkpoints_a_run_starts_and_with_damaged_ones_it_does_not(copies: Path, tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / 'nothing') is None
    for path in copies.glob('*.pth'):
        truncate(path)
    with pytest.raises(ValueError, match=r'every checkpoint in .* is damaged(.|\n)*start again without'):
        newest_checkpoint(copies)


def test_a_new_run_does_not_start_among_the_checkpoints_of_another(copies: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'earlier run \(epoch_3\.pth, …\): .*--resume'):
        check_unused(str(copies))
    (tmp_path / 'my run').mkdir()
    torch.save(dict(a=1), tmp_path / 'my run/epoch_1.pth')
    with pytest.raises(ValueError, match=r"\(rm '\S*/my run'/\*\.pth\)"):
        check_unused(str(tmp_path / 'my run'))
    (tmp_path / 'notes').mkdir()
    torch.save(dict(a=1), tmp_path / 'notes/encoder.pth')
    for unused in (tmp_path / 'notes', tmp_path / 'nothing'):
        check_unused(str(unused))


def test_a_copied_run_goes_on_from_its_own_checkpoints(copies: Path, finished: Runner) -> None:
    pointer = Path(finished.work_dir) / 'last_checkpoint'
    (copies / 'last_checkpoint').write_text(pointer.read_text())
    (copies / 'epoch_3.pth').unlink()
    assert newest_checkpoint(copies) == copies / 'epoch_2.pth'
    for path in copies.glob('*.pth'):
        path.unlink()
    assert newest_checkpoint(copies) == Path(finished.work_dir) / 'epoch_3.pth'  # `out_dir` may be anywhere


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """A write that fails half-way for want of room, as on a full disk."""
    file = tmp_path / 'epoch_1.pth'
    AtomicBackend().put(b'old' * 1000, file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(TrainingStopped, match=r'cannot write .*epoch_1\.pth .*make room') as stop:
            AtomicBackend().put(b'new' * 10000, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(stop.value.__cause__, OSError)
    assert file.read_bytes() == b'old' * 1000 and [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']
    AtomicBackend().put(b'new', file)
    assert file.read_bytes() == b'new'


def test_a_full_disk_leaves_every_earlier_checkpoint(images: Path, tmp_path: Path) -> None:
    options = {**ALONE, 'default_hooks.checkpoint.max_keep_ckpts': 2, 'train_cfg.val_interval': 9}

    class Fill(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
            if runner.iter + 1 == 3 * EPOCH:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    runner = build(tiny_config(images, tmp_path, **options), hooks=(Fill(),))
    try:
        with pytest.raises(TrainingStopped, match='epoch_3'):
            runner.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        restore_signals(runner)
    assert sorted(path.name for path in tmp_path.glob('epoch*')) == ['epoch_1.pth', 'epoch_2.pth']
    (tmp_path / 'epoch_3.pth.partial').write_bytes(b'of a killed writer')
    resumed = train(tiny_config(images, tmp_path, **options), resume=True)
    assert resumed.iter == 4 * EPOCH
    assert sorted(path.name for path in tmp_path.glob('epoch*')) == ['epoch_3.pth', 'epoch_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')
    assert broken_part(tmp_path / 'epoch_4.pth') is None


@pytest.mark.parametrize(('option', 'text'), [
    ({'model.backbone.arch.embed_dim': 48}, r'backbone\.cls_token: .*24.* in the file, .*48.* in the model'),
    ({'model.neck.depth': 2}, r'neck\.decoder_blocks\.1\..*: none in the file'),
])
def test_a_checkpoint_of_another_size_is_refused(copies: Path, images: Path, option: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(tiny_config(images, copies, **ALONE, **option), resume=True)


@pytest.mark.parametrize('where', [dict(number=signal.SIGTERM, iteration=EPOCH + 2),
                                   dict(number=signal.SIGINT, iteration=EPOCH),
                                   dict(number=signal.SIGUSR1, validation=True)])
def test_a_signal_stops_with_a_checkpoint_and_the_bits_stay(
    images: Path, tmp_path: Path, finished: Runner, where: dict,
) -> None:
    options = {**ALONE, 'train_cfg.max_epochs': 3}
    handlers = [signal.getsignal(number) for number in preemption.SIGNALS]
    runner = build(tiny_config(images, tmp_path, **options), hooks=(Signal(**where),))
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == EXIT_PREEMPTED == 75
    assert [signal.getsignal(number) for number in preemption.SIGNALS] == handlers
    saved = read_training_state(newest_checkpoint(tmp_path))['meta']
    assert saved['iter'] == where.get('iteration', 2 * EPOCH)
    resumed = train(tiny_config(images, tmp_path, **options), resume=True)
    assert different(state(finished), state(resumed)) == []
    assert not (tmp_path / 'latest.pth').exists()  # a regular checkpoint took its place


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, now = [], [0.0]
    monkeypatch.setattr(preemption.os, '_exit', codes.append)
    monkeypatch.setattr(preemption.time, 'monotonic', lambda: now[0])
    hook = preemption.PreemptionHook()
    hook.runner = SimpleNamespace(logger=logging.getLogger('test'))
    hook._note(signal.SIGTERM, None)
    now[0] = 0.5  # the terminal and torchrun each pass the first one on
    hook._note(signal.SIGTERM, None)
    assert codes == []
    now[0] = 3.0
    hook._note(signal.SIGTERM, None)
    hook._note(signal.SIGINT, None)
    assert codes == [128 + 15, 128 + 2]


def test_unfinite_weights_are_not_written(images: Path, tmp_path: Path) -> None:
    class Break(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                runner.model.neck.mask_token.data.fill_(float('inf'))

    options = {**ALONE, 'train_cfg.max_epochs': 2, 'default_hooks.nonfinite.patience': 99,
               'default_hooks.checkpoint.max_keep_ckpts': 1}
    train(tiny_config(images, tmp_path, **options), hooks=(Break(), StopAt(3 * EPOCH)))
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
