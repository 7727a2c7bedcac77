"""The precision of a run: what the device is good at, what the config says, what a resumed run began with."""

import logging
from pathlib import Path

import pytest
import torch
from helpers.reliability import ALONE, StopAt, build, different, save_images, state, tiny_config, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.engine import runner as launch

NATIVE = {'with': (torch.bfloat16, 'this CPU multiplies bfloat16'), 'without': (torch.float32, 'it emulates bfloat16')}


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A function that moves this process to a CPU with or without bfloat16."""
    def move(kind: str) -> None:
        for module in ('engine.runner', 'engine.optim.optim_wrapper', 'models.vit'):
            monkeypatch.setattr(f'mae_mm.{module}.native_dtype', lambda device: NATIVE[kind])
    return move


def lines(cfg: Config) -> list[tuple[str, str]]:
    return [(logging.getLevelName(level), line) for level, line in launch.settle_precision(cfg)]


def test_the_device_decides_unless_the_config_does(machine) -> None:
    for kind, dtype in (('with', 'bfloat16'), ('without', 'float32')):
        machine(kind)
        cfg = Config(dict(optim_wrapper=dict(type='mae_mm.AutocastOptimWrapper')))
        assert lines(cfg) == [('INFO', f'optim_wrapper.dtype={dtype}: {NATIVE[kind][1]}')]
        assert cfg.optim_wrapper.dtype == dtype
    cfg.optim_wrapper.dtype = 'bfloat16'
    assert lines(cfg) == [('INFO', 'optim_wrapper.dtype=bfloat16: as the config says')]
    assert lines(Config(dict(optim_wrapper=dict(type='OptimWrapper', dtype='auto')))) == []


@pytest.mark.parametrize(('kind', 'bf16'), [('with', True), ('without', False)])
def test_a_detector_computes_in_its_vit_as_the_device_likes(machine, kind: str, bf16: bool, make_vit, imgs) -> None:
    machine(kind)
    cfg = Config(dict(model=dict(backbone=dict(type='mae_mm.ViT', bf16='auto')), optim_wrapper=dict(type='X')))
    assert lines(cfg) == [('INFO', f'backbone.bf16={bf16}: {NATIVE[kind][1]}')] and cfg.model.backbone.bf16 is bf16
    vit, inside = make_vit(bf16='auto'), []  # built without a tool
    vit.blocks[0].mlp.register_forward_hook(lambda module, args, out: inside.append(out.dtype))
    vit(imgs)
    assert inside == [NATIVE[kind][0]]


@pytest.fixture
def stopped(machine, images: Path, tmp_path: Path) -> Runner:
    """A run that began on a CPU with bfloat16, and stopped after its first epoch."""
    machine('with')
    return train(tiny_config(images, tmp_path / 'run', **ALONE), hooks=(StopAt(iteration=8), ))


@pytest.mark.integration
def test_a_resumed_run_keeps_its_precision_on_another_machine(machine, stopped: Runner, images, tmp_path) -> None:
    whole = train(tiny_config(images, tmp_path / 'whole', **ALONE))
    machine('without')
    resumed = train(tiny_config(images, tmp_path / 'run', **ALONE), resume=True)
    assert resumed.optim_wrapper.dtype == torch.bfloat16 and not different(state(resumed), state(whole))


@pytest.mark.integration
def test_another_precision_than_that_of_the_resumed_run_is_reported(machine, stopped: Runner, images, tmp_path) -> None:
    cfg = tiny_config(images, tmp_path / 'run', **ALONE, **{'optim_wrapper.dtype': 'float32'})
    cfg.resume, cfg.load_from = True, str(tmp_path / 'run/epoch_1.pth')
    assert lines(cfg)[1] == (
        'WARNING', 'THE PRECISION CHANGED: optim_wrapper.dtype was bfloat16 before this run was resumed')
    assert build(cfg).optim_wrapper['dtype'] == 'float32'

    machine('without')
    cfg = tiny_config(images, tmp_path / 'run', **ALONE)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'run/epoch_1.pth')
    assert lines(cfg) == [('INFO', (
        'optim_wrapper.dtype=bfloat16: as this run began; for a new run optim_wrapper.dtype=float32: it emulates '
        'bfloat16'))]


class Dtypes(Hook):
    """What a layer returns while the training trains and validates."""

    def before_train(self, runner: Runner) -> None:
        self.seen = {True: set(), False: set()}
        layer = runner.model.backbone.blocks[0].mlp.fc1
        layer.register_forward_hook(lambda module, args, out: self.seen[module.training].add(out.dtype))


@pytest.mark.integration
@pytest.mark.parametrize('kind', NATIVE)
def test_validation_has_the_precision_of_the_training(machine, kind: str, images: Path, tmp_path: Path) -> None:
    machine(kind)
    hook = Dtypes()
    train(tiny_config(images, tmp_path / 'run', **ALONE, **{'train_cfg.max_epochs': 2}), hooks=(hook, ))
    assert hook.seen == {True: {NATIVE[kind][0]}, False: {NATIVE[kind][0]}}


@pytest.mark.parametrize(('saved', 'dtype'), [
    ("optim_wrapper = dict(type='mae_mm.AutocastOptimWrapper')", 'bfloat16'),
    ("optim_wrapper = dict(type='mae_mm.GuardedOptimWrapper')", 'float32'), ('', None)])
def test_runs_of_version_0_2_were_in_bfloat16(monkeypatch, saved: str, dtype: str | None) -> None:
    monkeypatch.setattr(launch, 'read_training_state', lambda path: dict(meta=dict(cfg=saved)))
    cfg = Config(dict(resume=True, load_from='x.pth'))
    assert launch._precision_before(cfg, 'optim_wrapper.dtype') == dtype
    assert launch._precision_before(cfg, 'backbone.bf16') is (False if saved else None)
