"""Scalars that are read once in an interval against mmengine's, which are read in every iteration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.noise_runs import BOTH, log_of
from mmengine.hooks import Hook

from mae_mm.checkpoint import allow_mmengine_objects
from mae_mm.engine.hooks import CompileHook
from mae_mm.engine.hooks.compiling import why_not
from mae_mm.engine.hooks.summary import read_points

OURS = dict(
    default_hooks=dict(
        logger=dict(type='LoggerHook', interval=2), runtime_info=dict(type='mae_mm.RuntimeInfoHook'),
        timer=dict(type='mae_mm.IterTimerHook')),
    log_processor=dict(window_size=1))


class Spy(Hook):
    """Keeps what reached the hub after every iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.lengths, self.losses = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        scalars = runner.message_hub.log_scalars
        self.lengths.append(len(scalars['train/loss'].data[0]) if 'train/loss' in scalars else 0)
        self.losses.append(outputs['loss'].item())


@pytest.mark.parametrize(('ignore_last', 'read'), [(True, [2, 5, 6]), (False, [2, 3, 5, 6])])
def test_means_of_what_mmengine_has_iteration_by_iteration(run, ignore_last, read):
    """Three iterations an epoch, two epochs: read after 2, in the next epoch after 2 more, and after the last."""
    options = {**OURS, 'default_hooks': {
        **OURS['default_hooks'], 'logger': dict(type='LoggerHook', interval=2, ignore_last=ignore_last)}}
    runner = run(custom_hooks=[*BOTH, spy := Spy()], **options)
    values = runner.message_hub.get_scalar('train/loss').data[0]
    parts = np.split(np.array(spy.losses), read[:-1])
    np.testing.assert_allclose(values, [part.mean() for part in parts], rtol=1e-6)
    assert spy.lengths == [sum(i >= place for place in read) for i in range(1, 7)]
    times = runner.message_hub.get_scalar('train/time').data[0]
    assert len(times) == len(read) == len(runner.message_hub.get_scalar('train/lr').data[0])
    counts = [len(part) for part in parts]
    assert runner.message_hub.get_info('train_seconds') == pytest.approx((times * counts).sum(), rel=1e-6)
    assert 0 < runner.message_hub.get_scalar('train/data_time').data[0].sum() < times.sum()

    points = [point for point in read_points(Path(runner.work_dir) / 'curve.jsonl') if 'loss' in point]
    assert [point['iter'] for point in points] == read
    np.testing.assert_allclose([point['loss'] for point in points], values)
    log = log_of(runner)
    assert f'loss: {values[0]:.4f}' in log and 'eta: 0:00:0' in log and 'data_time: ' in log
    assert f'{2 / np.median(times):,.0f} images/s' in log


def test_weights_are_those_of_a_run_with_mmengines_hooks(run):
    ours, theirs = run(**OURS), run('theirs')
    assert all(torch.equal(weight, theirs.model.state_dict()[name]) for name, weight in ours.model.state_dict().items())


def test_a_resumed_run_goes_on_with_the_seconds(run):
    allow_mmengine_objects()
    first = run(**OURS, train_cfg=dict(by_epoch=True, max_epochs=1))
    seconds = first.message_hub.get_info('train_seconds')
    again = run(**OURS, resume=True)
    assert again.message_hub.get_info('train_seconds') > seconds > 0
    assert len(again.message_hub.get_scalar('train/loss').data[0]) == 2 + 2


def test_without_a_compiler_training_continues(run, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('no C++ compiler\nmore')

    monkeypatch.setattr(torch, 'compile', broken)
    runner = run(custom_hooks=[CompileHook()])
    assert runner.iter == 6
    assert log_of(runner).count(
        'torch.compile does not work here, training continues without it: RuntimeError: no C++ compiler\n') == 1


@pytest.mark.slow
def test_compiled_blocks_train_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'inductor'))  # a killed compiler leaves half a file
    assert why_not(torch.device('cpu')) == ''
    compiled, plain = run(custom_hooks=[CompileHook()]), run('plain', custom_hooks=[])
    assert '3 blocks are compiled' in log_of(compiled)
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_norms_of_gradients_are_read_with_the_loss(run):
    """With mmengine's hook each step writes its norm; with ours the mean is read in the same iterations as the loss."""
    clip = dict(optim_wrapper=dict(
        type='mae_mm.GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=0.1)))
    ours, theirs = run(**OURS, **clip), run('theirs', **clip)
    each = theirs.message_hub.get_scalar('train/grad_norm').data[0]
    read = ours.message_hub.get_scalar('train/grad_norm').data[0]
    assert len(each) == 6 and len(read) == 3
    np.testing.assert_allclose(read, [each[:2].mean(), each[2:5].mean(), each[5]], rtol=1e-5)
