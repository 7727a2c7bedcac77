"""Build mmcv with its operators, once per machine, and install it into the Python that runs this script.

PyPI has no wheel of mmcv, and pip's isolated build omits the operators, which mmdet and mmseg need. The wheel is kept
in `~/.cache/mae_mm/wheels/torch<version>-cp<python>-<cpu|cuXXX-smXX>-<machine>/`, so that the next installation takes
seconds. CUDA operators are built if torch finds a GPU (or FORCE_CUDA=1 is set) and there is an nvcc of the same CUDA
version: of a toolkit, or of `pip install "cuda-toolkit[nvcc,nvvm,crt,cccl]==13.0.*"`. They are for this machine's GPUs;
without one, for all that torch supports. TORCH_CUDA_ARCH_LIST decides otherwise, e.g. "8.0;9.0".

Run: python tools/build_mmcv.py    # about 5 minutes on 2 cores
"""

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

MMCV = 'mmcv==2.1.0'
BUILD_TOOLS = ['setuptools<81', 'wheel', 'ninja', 'psutil']
NVCC = 'cuda-toolkit[nvcc,nvvm,crt,cccl]'  # of one release; nvidia-cuda-nvcc alone takes the newest of the others
PIP = [sys.executable, '-m', 'pip']
CHECK = """
import torch
from mmcv.ops import get_compiling_cuda_version, nms
boxes = torch.tensor([[0., 0., 2., 2.]])
for device in {devices}:
    nms(boxes.to(device), boxes.new_ones(1).to(device), 0.5)
assert not {cuda} or get_compiling_cuda_version() != 'not available'
"""


class Cuda(NamedTuple):
    """What CUDA operators are built with, and for."""

    version: str  # of torch, e.g. 13.0
    home: Path  # of nvcc
    archs: str  # compute capabilities, e.g. 8.0;9.0

    @property
    def key(self) -> str:
        """`cu130-sm80_90`."""
        return f'cu{self.version}-sm{self.archs}'.replace('.', '').replace(';', '_')


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        import torch
    except ImportError as error:
        sys.exit(f'mmcv is built against torch, which does not import ({error}): install torch and torchvision first.')
    cuda = cuda_for_build(torch)
    devices = ['cpu', 'cuda'] if cuda and torch.cuda.is_available() else ['cpu']
    if operators_load(devices, cuda):
        print(f'mmcv: operators already load ({", ".join(devices)})')
        return
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    key = f'torch{torch.__version__.split("+")[0]}-{python}-{cuda.key if cuda else "cpu"}-{platform.machine()}'
    cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'mae_mm' / 'wheels' / key
    with locked(cache):
        wheel = next(cache.glob('*.whl'), None)
        if wheel:
            print(f'mmcv: using {wheel}', flush=True)
            if install(wheel, devices, cuda):
                return
            print('mmcv: its operators do not load; building it again', flush=True)
            wheel.unlink()
        preflight()
        if not install(build(cache, cuda), devices, cuda):
            sys.exit(f'mmcv was built, but its operators do not load; see the log {cache / "build.log"}')
    print('mmcv: operators load')


def cuda_for_build(torch) -> Cuda | None:
    """How CUDA operators can be built; None if they cannot, or nobody needs them."""
    if torch.version.cuda is None or not (torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'):
        return None
    from torch.utils.cpp_extension import CUDA_HOME  # its import warns without a GPU

    wanted = torch.version.cuda
    homes = [Path(CUDA_HOME)] if CUDA_HOME else []
    homes.append(Path(torch.__file__).parents[1] / 'nvidia' / f'cu{wanted.split(".")[0]}')  # pip's
    found = [home for home in homes if (home / 'bin' / 'nvcc').exists()]
    for home in found:
        out = subprocess.run([home / 'bin' / 'nvcc', '--version'], capture_output=True, text=True).stdout
        release = re.search(r'release (\d+)\.', out)
        if release and release.group(1) == wanted.split('.')[0]:
            return Cuda(wanted, home, os.environ.get('TORCH_CUDA_ARCH_LIST') or architectures(torch))
    reason = f'{found[0]}/bin/nvcc is not of CUDA {wanted}, as torch is' if found else 'there is no nvcc'
    print(f'mmcv: {reason}; the operators will run on the CPU only. For the GPU: '
          f'pip install "{NVCC}=={wanted}.*"')
    return None


def architectures(torch) -> str:
    """Compute capabilities of this machine's GPUs; without one, of all that torch supports."""
    if torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    else:
        found = {divmod(int(flag), 10) for flag in re.findall(r'sm_(\d+)', torch._C._cuda_getArchFlags())}
    return ';'.join(f'{major}.{minor}' for major, minor in sorted(found))


def operators_load(devices: list[str], cuda: Cuda | None) -> bool:
    check = [sys.executable, '-W', 'ignore', '-c', CHECK.format(devices=devices, cuda=bool(cuda))]
    return subprocess.run(check, capture_output=True, cwd='/').returncode == 0


@contextmanager
def locked(folder: Path):
    """Lock the folder: a second installation waits for the wheel of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'mmcv: waiting for another installation, which locks {folder / "lock"}', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def preflight() -> None:
    """Stop before the long build when a compiler or Python's headers are missing."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if not shutil.which(compiler):
        sys.exit(f'mmcv needs a C++ compiler, and `{compiler}` was not found.\n  fix: apt-get install g++')
    header = Path(sysconfig.get_paths()['include'], 'Python.h')
    if not header.exists():
        package = f'python{sys.version_info.major}.{sys.version_info.minor}-dev'
        sys.exit(f"mmcv needs Python's headers, and {header} was not found.\n  fix: apt-get install {package}")


def build(cache: Path, cuda: Cuda | None) -> Path:
    """Build the wheel in a temporary folder and move it into the cache when it is complete."""
    subprocess.run([*PIP, 'install', '-q', *BUILD_TOOLS], check=True)
    log, scratch = cache / 'build.log', cache / 'building'
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    env = {**os.environ, 'MMCV_WITH_OPS': '1', 'FORCE_CUDA': '1' if cuda else '0'}
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'  # ninja's folder, if the environment is not activated
    if cuda:
        env.update(CUDA_HOME=str(cuda.home), TORCH_CUDA_ARCH_LIST=cuda.archs)
        link_runtime(cuda.home, scratch / 'lib', env)
    else:
        env.setdefault('CFLAGS', '-O1 -g0 -w')
    command = [*PIP, 'wheel', '-v', '--no-build-isolation', '--no-deps', '--no-cache-dir', '-w', str(scratch), MMCV]
    print(f'mmcv: building {MMCV} for {cuda.key if cuda else "the CPU"}, once per machine: about '
          f'{"20 minutes, depending on the cores" if cuda else "5 minutes on 2 cores"}\nmmcv: log in {log}', flush=True)
    with open(log, 'w') as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, cwd=scratch)
        watch(process, log)
    wheel = next(scratch.glob('*.whl'), None)
    if process.returncode or wheel is None:
        errors = [line for line in log.read_text(errors='replace').splitlines() if 'error' in line.lower()]
        sys.exit('\n'.join(['mmcv: the build failed.', *errors[:10], f'mmcv: the complete log is {log}']))
    wheel = wheel.replace(cache / wheel.name)
    shutil.rmtree(scratch, ignore_errors=True)
    return wheel


def link_runtime(home: Path, folder: Path, env: dict[str, str]) -> None:
    """Let the linker find `libcudart.so`, which pip's CUDA has only as `libcudart.so.13`."""
    found = sorted(home.glob('lib*/libcudart.so*'))
    if found and not any(path.name == 'libcudart.so' for path in found):
        folder.mkdir()
        (folder / 'libcudart.so').symlink_to(found[0])
        env['LIBRARY_PATH'] = f'{folder}:{env.get("LIBRARY_PATH", "")}'


def watch(process: subprocess.Popen, log: Path) -> None:
    """Show the elapsed time and the count of ninja until the build ends; on a terminal in place, else every 20 s."""
    terminal = sys.stdout.isatty()
    start = shown = time.monotonic()
    while process.poll() is None:
        time.sleep(0.5)
        if time.monotonic() - shown < (1 if terminal else 20):
            continue
        shown = time.monotonic()
        seconds = int(shown - start)
        counts = re.findall(r'^\s*\[(\d+/\d+)\]', log.read_text(errors='replace'), re.MULTILINE)
        line = f'mmcv: {seconds // 60}:{seconds % 60:02} {counts[-1] + " files compiled" if counts else "preparing"}'
        print(line, end='\r' if terminal else '\n', flush=True)
    print(f'mmcv: the build ended after {(time.monotonic() - start) / 60:.1f} min', flush=True)


def install(wheel: Path, devices: list[str], cuda: Cuda | None) -> bool:
    """Replace whatever provides `mmcv` by the wheel; returns whether its operators load."""
    others = set(packages_distributions().get('mmcv', [])) - {'mmcv'}
    if others:
        print(f'mmcv: replacing {", ".join(sorted(others))}, which uses the same folder')
        subprocess.run([*PIP, 'uninstall', '-q', '-y', *others], check=True)
    command = [*PIP, 'install', '-q', '--no-deps', '--force-reinstall', str(wheel)]
    return subprocess.run(command).returncode == 0 and operators_load(devices, cuda)


if __name__ == '__main__':
    main()
