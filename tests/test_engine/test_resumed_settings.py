"""Settings that a resumed run does not heed are said."""

from pathlib import Path

import pytest
from helpers.reliability import ALONE, build, restore_signals, save_images, tiny_config, train

from mae_mm.engine.resumed_settings import changes_without_effect, read_settings


def test_a_resumed_run_says_what_it_does_not_heed(tmp_path: Path) -> None:
    images = save_images(tmp_path / 'images')
    options = {**ALONE, 'train_cfg.max_epochs': 2}
    first = train(tiny_config(images, tmp_path / 'run', **options))
    rate = first.cfg.optim_wrapper.optimizer.lr
    for changes, said in (
            ({}, []),
            ({'optim_wrapper.clip_grad.max_norm': 1.0, 'train_dataloader.num_workers': 0}, []),
            ({'optim_wrapper.optimizer.lr': 1e-5, 'train_cfg.max_epochs': 3, 'param_scheduler.1.eta_min': 1e-6},
             [f'optim_wrapper.optimizer.lr: {rate} -> 1e-05', 'param_scheduler.1.eta_min: not set -> 1e-06',
              'train_cfg.max_epochs: 2 -> 3'])):
        for old in tmp_path.glob('run/*/*.log'):
            old.unlink()
        runner = build(tiny_config(images, tmp_path / 'run', **{**options, **changes}), resume=True)
        log = ''.join(path.read_text() for path in tmp_path.glob('run/*/*.log'))
        assert ('WITHOUT EFFECT' in log) is bool(said)
        assert all(f'\n  {line}\n' in log for line in said)
    runner.train()  # as is said: the last lr of the schedule that has ended
    restore_signals(runner)
    before, after = (one.optim_wrapper.optimizer.param_groups[0]['lr'] for one in (first, runner))
    assert before == after and first.optim_wrapper.optimizer.param_groups[0]['initial_lr'] == pytest.approx(rate)


def test_configs_are_parsed_and_not_run() -> None:
    text = "a = dict(b=[dict(c=1, d=(2, -3.0)), {'e': None}], f=__import__('os').abort())"
    assert read_settings(text) == {
        'a.b.0.c': '1', 'a.b.0.d.0': '2', 'a.b.0.d.1': '-3.0', 'a.b.1.e': 'None', 'a.f': "__import__('os').abort()"}
    assert read_settings('a = (') == {} == read_settings('\0')
    assert changes_without_effect('param_scheduler = []', 'model = dict(type=1)\nparam_scheduler = []') == []
