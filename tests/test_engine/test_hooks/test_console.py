"""What runs show: to people on the console, to programs in the log file."""

import io
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.noise_runs import log_of
from helpers.reliability import ALONE, BATCH, EPOCH, save_images, tiny_config
from mmengine.runner import Runner

from mae_mm.engine import runner as launch
from mae_mm.engine.hooks.console import Console, describe, numbers

OPTIONS = {
    **ALONE, 'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1, 'auto_scale_lr.base_batch_size': 4 * BATCH,
    'custom_hooks': [dict(type='mae_mm.SummaryHook')]}


class Terminal(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def train(images: Path, work_dir: Path, **options: object) -> Runner:
    cfg = tiny_config(images, work_dir, **{**OPTIONS, **options})
    cfg.log_level = 'INFO'
    runner = launch.build_runner(cfg)
    runner.train()
    return runner


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_images(tmp_path / 'images')


def test_console_has_a_summary_and_lines_and_the_log_file_everything(
        images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runner = train(images, tmp_path / 'run')
    lines = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith('model '))
    shown = dict(line.split(maxsplit=1) for line in lines[begin:begin + 8])
    assert shown['model'].startswith('MAE with ViT, 0.0') and shown['training'] == f'24 images, {images}'
    assert shown['held-out'] == f'24 images, {images}' and shown['device'].startswith('cpu, ')
    assert shown['batch'] == f'{BATCH} images, {EPOCH} steps x 2 epochs = {2 * EPOCH} steps'
    assert shown['lr'] == "0.002 at its highest; the config's 0.008 is for a batch of 16"
    assert shown['precision'] == 'bfloat16 (autocast)' and shown['files'].startswith(f'{tmp_path / "run"}; ')
    pattern = r'epoch (\d)/2  step (\d)/6  loss \d\.\d{4}  lr \S+  [\d,]+ images/s  0:00:\d\d left'
    progress = [re.fullmatch(pattern, line) for line in lines]
    assert {(int(one[1]), int(one[2])) for one in progress if one} == {
        (epoch, step) for epoch in (1, 2) for step in (2, 4, 6)}
    validations = [line for line in lines if ', validation: ' in line]
    assert [line.split(',')[0] for line in validations] == ['epoch 1', 'epoch 2']
    assert lines[-4].startswith('+---') and lines[-3] == 'next:' and len(lines) < 50  # they come last
    assert max(map(len, lines[lines.index(lines[-4]):-3])) < 120  # the commands do not widen the box
    assert not any(text in line for line in lines for text in ('System environment', 'base_lr', 'Epoch(train)'))
    log = log_of(runner)
    for text in ('System environment:', 'Config:\n', 'Hooks will be executed', 'base_lr: ', 'recon/loss'):
        assert text in log, text
    assert log.count('Epoch(train)') == 6 and 'images/s  0:00' not in log  # logged once


def test_terminal_has_a_bar_and_lines_only_for_results(
        images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdout', terminal := Terminal())
    monkeypatch.setenv('COLUMNS', '120')
    monkeypatch.setenv('LINES', '40')
    runner = train(images, tmp_path / 'run')
    parts = re.split(r'[\r\n]+', terminal.getvalue())
    bars = [part for part in parts if re.match(r'(epoch|validation) \d/\d: +\d+%\|', part)]
    assert bars and bars[-1].startswith('epoch 2/2: 100%|') and re.search('loss .*lr .*images/s', bars[-1])
    assert not any('left' in part for part in parts)
    assert sum(part.startswith('epoch 2, validation: masked loss ') for part in parts) == 1
    assert next(hook for hook in runner.hooks if type(hook).__name__ == 'ConsoleHook').bar is None
    assert parts.index(bars[-1]) < next(i for i, part in enumerate(parts) if part.startswith('+---'))


def test_warnings_reach_the_console(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runner = launch.build_runner(cfg := tiny_config(images, tmp_path / 'run', **OPTIONS))
    assert cfg.log_level == 'WARNING'
    runner.logger.warning('careful')
    runner.logger.warning('careful')
    runner.logger.warning('"FileClient" will be deprecated in future')
    runner.train()
    assert capsys.readouterr().out == 'WARNING: careful\n'  # and no summary above this level


def test_only_the_libraries_details_are_hidden(tmp_path: Path) -> None:
    console = Console(stream := io.StringIO(), logging.INFO)
    import mmengine
    for path, level, text in (
            (mmengine.__file__, logging.INFO, 'detail'), (mmengine.__file__, logging.WARNING, 'warning'),
            (str(tmp_path / 'mmengine' / 'mine.py'), logging.INFO, 'mine')):
        console.handle(logging.LogRecord('mmengine', level, path, 1, text, (), None))
    assert stream.getvalue() == 'WARNING: warning\nmine\n'


def test_lr_of_a_decayed_run_is_that_of_its_head(
        images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runner = train(images, tmp_path / 'run', **{'optim_wrapper.paramwise_cfg': dict(layer_decay_rate=0.5)})
    groups = runner.optim_wrapper.optimizer.param_groups
    assert len({group['lr'] for group in groups}) > 1
    groups[-1]['lr'] = 9.0
    assert numbers(runner)[1] == 'lr 9.00e+00' and 'lr         0.002 at its highest' in capsys.readouterr().out


def test_metrics_in_a_line() -> None:
    assert describe({'mIoU': np.float32(24.5)}) == 'mIoU 24.5'  # as mmseg reports it
    assert describe({'accuracy/top1': 53.125, 'coco/bbox_mAP_copypaste': '0.1 0.2', 'coco/bbox_mAP': 0.0812}) == (
        'accuracy/top1 53.12  coco/bbox_mAP 0.0812')
    held_out = {'recon/loss': 0.7181, 'recon/patch_mean': 0.9948, 'recon/interpolation': 0.8726, 'recon/margin': 0.1771}
    assert describe(held_out) == 'masked loss 0.7181  patch mean 0.9948  interpolation 0.8726  margin 17.7%'
