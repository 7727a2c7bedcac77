"""What surrounds the build of mmcv: the cache, the lock and the checks before five minutes are spent."""

import fcntl
import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers import ROOT

SCRIPT = ROOT / 'tools' / 'build_mmcv.py'


@pytest.fixture
def script(monkeypatch, tmp_path) -> ModuleType:
    """tools/build_mmcv.py with an empty cache, no operators, and a build that only writes a file."""
    spec = importlib.util.spec_from_file_location('build_mmcv', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.built, module.installed = [], []

    def build(cache, cuda):
        module.built.append(cuda)
        (cache / 'mmcv-new.whl').touch()
        return cache / 'mmcv-new.whl'

    def install(wheel, devices):
        module.installed.append(wheel.name)
        return 'broken' not in wheel.name

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['build_mmcv.py'])
    monkeypatch.setattr(module, 'operators_load', lambda devices: False)
    monkeypatch.setattr(module, 'cuda_for_build', lambda torch: '')
    monkeypatch.setattr(module, 'build', build)
    monkeypatch.setattr(module, 'install', install)
    return module


@pytest.fixture
def cache(tmp_path) -> Path:
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    key = f'torch{torch.__version__.split("+")[0]}-{python}-cpu-{os.uname().machine}'
    folder = tmp_path / 'mae_mm' / 'wheels' / key
    folder.mkdir(parents=True)
    return folder


def test_the_wheel_is_built_once(script, cache):
    script.main()
    script.main()
    assert script.built == ['']
    assert script.installed == ['mmcv-new.whl', 'mmcv-new.whl']


def test_a_cached_wheel_that_does_not_work_is_replaced(script, cache):
    (cache / 'mmcv-broken.whl').touch()
    script.main()
    assert script.installed == ['mmcv-broken.whl', 'mmcv-new.whl']
    assert [path.name for path in cache.glob('*.whl')] == ['mmcv-new.whl']


def test_nothing_is_done_when_the_operators_load(script, monkeypatch, cache):
    monkeypatch.setattr(script, 'operators_load', lambda devices: True)
    script.main()
    assert not script.installed


def test_a_second_install_waits_for_the_first(script, cache, capsys):
    with open(cache / 'lock', 'w') as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=script.main)
        second.start()
        second.join(timeout=2)
        assert second.is_alive()
        assert not script.built
        (cache / 'mmcv-first.whl').touch()
    second.join(timeout=20)
    assert script.installed == ['mmcv-first.whl']
    assert 'waiting' in capsys.readouterr().out


def test_a_missing_compiler_is_told_before_the_build(script, monkeypatch, cache):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SystemExit, match='apt-get install g\\+\\+'):
        script.main()
    assert not script.built


def test_missing_python_headers_are_told_before_the_build(script, monkeypatch, cache, tmp_path):
    monkeypatch.setattr(script.sysconfig, 'get_paths', lambda: {'include': str(tmp_path)})
    with pytest.raises(SystemExit, match=r'apt-get install python3\.\d+-dev'):
        script.main()
    assert not script.built


@pytest.mark.parametrize(('gpu', 'release', 'key'), [
    (False, '13.0', ''), (True, None, ''), (True, '12.4', ''), (True, '13.2', 'cu130')])  # fmt: skip
def test_cuda_operators_are_built_where_a_gpu_and_a_fitting_nvcc_are(monkeypatch, tmp_path, gpu, release, key):
    spec = importlib.util.spec_from_file_location('build_mmcv', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if release:
        nvcc = tmp_path / 'bin' / 'nvcc'
        nvcc.parent.mkdir()
        nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.1"\n')
        nvcc.chmod(0o755)
    monkeypatch.delenv('FORCE_CUDA', raising=False)
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', str(tmp_path))
    fake = SimpleNamespace(version=SimpleNamespace(cuda='13.0'), cuda=SimpleNamespace(is_available=lambda: gpu))
    assert module.cuda_for_build(fake) == key
