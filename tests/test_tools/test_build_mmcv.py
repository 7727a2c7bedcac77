"""What surrounds the build of mmcv: the cache, the lock and the checks before five minutes are spent."""

import fcntl
import importlib.util
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
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

    def install(wheel, devices, cuda):
        module.installed.append(wheel.name)
        return 'broken' not in wheel.name

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['build_mmcv.py'])
    monkeypatch.setattr(module, 'operators_load', lambda devices, cuda: False)
    monkeypatch.setattr(module, 'cuda_for_build', lambda torch: None)
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
    assert script.built == [None]
    assert script.installed == ['mmcv-new.whl', 'mmcv-new.whl']


def test_a_cached_wheel_that_does_not_work_is_replaced(script, cache):
    (cache / 'mmcv-broken.whl').touch()
    script.main()
    assert script.installed == ['mmcv-broken.whl', 'mmcv-new.whl']
    assert [path.name for path in cache.glob('*.whl')] == ['mmcv-new.whl']


def test_nothing_is_done_when_the_operators_load(script, monkeypatch, cache):
    monkeypatch.setattr(script, 'operators_load', lambda devices, cuda: True)
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


@pytest.fixture
def module() -> ModuleType:
    """tools/build_mmcv.py as it is."""
    spec = importlib.util.spec_from_file_location('build_mmcv', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_nvcc(home: Path, release: str) -> None:
    nvcc = home / 'bin' / 'nvcc'
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.1"\n')
    nvcc.chmod(0o755)


def fake_torch(site: Path, gpus: list[tuple[int, int]]) -> SimpleNamespace:
    return SimpleNamespace(
        __file__=str(site / 'torch/__init__.py'), version=SimpleNamespace(cuda='13.0'),
        cuda=SimpleNamespace(is_available=lambda: bool(gpus), device_count=lambda: len(gpus),
                             get_device_capability=lambda index: gpus[index]),
        _C=SimpleNamespace(_cuda_getArchFlags=lambda: 'sm_75 sm_80 sm_100'))


@pytest.mark.parametrize(('gpus', 'toolkit', 'wheel', 'home', 'key'), [
    ([], '13.0', None, None, None), ([(9, 0)], None, None, None, None), ([(9, 0)], '12.4', None, None, None),
    ([(9, 0), (8, 6), (9, 0)], '13.2', None, 'toolkit', 'cu130-sm86_90'),
    ([(9, 0)], None, '13.0', 'nvidia/cu13', 'cu130-sm90'),  # of `pip install nvidia-cuda-nvcc`
    ([(9, 0)], '12.4', '13.0', 'nvidia/cu13', 'cu130-sm90')])
def test_cuda_operators_are_built_where_a_gpu_and_a_fitting_nvcc_are(
    module, monkeypatch, tmp_path, capsys, gpus, toolkit, wheel, home, key,
):
    for folder, release in (('toolkit', toolkit), ('nvidia/cu13', wheel)):
        if release:
            write_nvcc(tmp_path / folder, release)
    for name in ('FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', str(tmp_path / 'toolkit') if toolkit else None)
    cuda = module.cuda_for_build(fake_torch(tmp_path, gpus))
    assert (cuda and cuda.key, cuda and cuda.home) == (key, home and tmp_path / home)
    advice = 'pip install "cuda-toolkit[nvcc,nvvm,crt,cccl]==13.0.*"'
    assert (advice in capsys.readouterr().out) is bool(gpus and not key)


def test_forced_operators_are_for_all_that_torch_supports_or_the_environment_says(module, monkeypatch, tmp_path):
    """Without a GPU torch's own choice of architectures would raise an IndexError."""
    write_nvcc(tmp_path / 'nvidia/cu13', '13.0')
    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', None)
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    assert module.cuda_for_build(fake_torch(tmp_path, [])).archs == '7.5;8.0;10.0'
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0;9.0')
    assert module.cuda_for_build(fake_torch(tmp_path, [])).key == 'cu130-sm80_90'


def test_operators_of_the_cpu_alone_do_not_stop_a_forced_build(module, script, monkeypatch, tmp_path, cache):
    """mmcv without CUDA loads, and is not what FORCE_CUDA=1 asks for."""
    for name, compiled in (('cpu', 'not available'), ('cuda', '13.0')):
        (tmp_path / name / 'mmcv').mkdir(parents=True)
        (tmp_path / name / 'mmcv/__init__.py').touch()
        (tmp_path / name / 'mmcv/ops.py').write_text(
            f"def get_compiling_cuda_version(): return '{compiled}'\ndef nms(*args): pass\n")
    cuda = module.Cuda('13.0', tmp_path, '9.0')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'cpu'))
    assert module.operators_load(['cpu'], None) and not module.operators_load(['cpu'], cuda)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'cuda'))
    assert module.operators_load(['cpu'], cuda)
    monkeypatch.setattr(script, 'cuda_for_build', lambda torch: cuda)
    script.main()
    assert script.built == [cuda] and (cache.parent / cache.name.replace('cpu', 'cu130-sm90')).is_dir()


@pytest.mark.parametrize('names', [['libcudart.so.13'], ['libcudart.so', 'libcudart.so.13']])
def test_the_runtime_of_pip_gets_the_name_that_linkers_look_for(module, tmp_path, names):
    (tmp_path / 'cu13/lib').mkdir(parents=True)
    for name in names:
        (tmp_path / 'cu13/lib' / name).write_text('the library')
    env = dict(LIBRARY_PATH='/other')
    module.link_runtime(tmp_path / 'cu13', tmp_path / 'lib', env)
    if len(names) == 1:
        assert env['LIBRARY_PATH'] == f'{tmp_path / "lib"}:/other'
        assert (tmp_path / 'lib/libcudart.so').read_text() == 'the library'
    else:
        assert env == dict(LIBRARY_PATH='/other')


@pytest.mark.slow
def test_cuda_operators_compile_with_the_nvcc_of_pip(module, monkeypatch, tmp_path):
    """Three of mmcv's .cu files, linked, without a GPU and a toolkit. Downloads 270 MB: make test-all runs it.

    The folder of pip's CUDA has what the documented command installs beside torch.
    """
    site, torch_site = tmp_path / 'site', Path(torch.__file__).parents[1]
    subprocess.run([*module.PIP, 'install', '-q', '--target', site, f'{module.NVCC}=={torch.version.cuda}.*'],
                   check=True)
    home = site / 'nvidia' / f'cu{torch.version.cuda.split(".")[0]}'
    for path in (torch_site / 'nvidia' / home.name).rglob('*'):
        link = home / path.relative_to(torch_site / 'nvidia' / home.name)
        if path.is_file() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    (home / 'lib/libcudart.so').unlink(missing_ok=True)

    monkeypatch.setattr('torch.utils.cpp_extension.CUDA_HOME', None)
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '9.0')
    cuda = module.cuda_for_build(fake_torch(site, []))
    assert cuda == module.Cuda('13.0', home, '9.0')

    subprocess.run([*module.PIP, 'download', '-q', '--no-deps', '--no-build-isolation', '--no-binary', 'mmcv', '-d',
                    tmp_path, module.MMCV], check=True)
    with tarfile.open(next(tmp_path.glob('mmcv-*.tar.gz'))) as file:
        file.extractall(tmp_path, filter='data')
    source = next(tmp_path.glob('mmcv-*/'))
    kept = {'nms_cuda.cu', 'roi_align_cuda.cu', 'focal_loss_cuda.cu', 'info.cpp'}
    for path in (source / 'mmcv/ops/csrc/pytorch').rglob('*.c*'):
        if path.name not in kept:
            path.unlink()
    monkeypatch.setattr(module, 'MMCV', str(source))
    wheel = module.build(tmp_path, cuda)
    with zipfile.ZipFile(wheel) as file:
        library = file.read(next(name for name in file.namelist() if name.startswith('mmcv/_ext')))
    for text in ('nms_cuda', 'roi_align_forward_cuda_kernel', 'sigmoid_focal_loss', 'sm_90', 'libcudart.so.13'):
        assert text.encode() in library, text
