"""Check what is installed: `python -m mae_mm.doctor [--json]` lists what is broken, and the command that fixes it.

The required ranges are those of setup.py, read from the metadata of the installed package. Versions are looked up by
import name, because `mmcv-lite`, the `onedl-*` forks and `opencv-python-headless` provide the same modules under other
distribution names. All checks access the system through `Environment`, which tests replace.
"""

import argparse
import contextlib
import importlib
import importlib.metadata as metadata
import io
import json
import os
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import ModuleType

from mae_mm import __version__
from mae_mm.paths import ROOT

OK, NOTE, BROKEN = 'ok', 'note', 'broken'
MODULES = {'mmsegmentation': 'mmseg', 'pillow': 'PIL', 'scikit-image': 'skimage'}  # distribution: module
HOSTS = ('mmdet', 'mmseg')  # they need mmcv's compiled operators


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is the command to run when the state is not `ok`."""

    name: str
    state: str
    found: str
    wanted: str = ''
    why: str = ''
    fix: str = ''


class Environment:
    """What the checks ask of this Python and this machine."""

    python = sys.version_info[:3]
    executable = sys.executable

    def __init__(self) -> None:
        self._providers = metadata.packages_distributions()

    def versions(self, module: str) -> dict[str, str]:
        """Version of each distribution that provides `module`, by distribution name."""
        return {name: metadata.version(name) for name in dict.fromkeys(self._providers.get(module, []))}

    def requirements(self) -> list[str]:
        """The declared requirements of mae_mm; raises PackageNotFoundError in a checkout that is not installed."""
        return metadata.requires('mae_mm') or []

    def load(self, module: str) -> ModuleType:
        return importlib.import_module(module)

    def has_nvidia_driver(self) -> bool:
        return shutil.which('nvidia-smi') is not None

    def pip(self, *arguments: str) -> str:
        """A command line of this Python's pip."""
        return shlex.join([self.executable, '-m', 'pip', *arguments])

    def install_mae_mm(self) -> str:
        return self.pip('install', '--no-deps', '--no-build-isolation', '-e', str(ROOT))

    def rebuild_mmcv(self) -> str:
        """The command that replaces whatever provides `mmcv` by mmcv with working operators."""
        build = shlex.join([self.executable, str(ROOT / 'tools/build_mmcv.py')])
        present = self.versions('mmcv')
        if list(present) == ['onedl-mmcv']:  # pip's isolated build has no torch, and leaves the operators out
            return self.pip('install', '--no-build-isolation', '--no-deps', '--force-reinstall', '--no-cache-dir',
                            f'onedl-mmcv=={present["onedl-mmcv"]}')
        return f'{self.pip("uninstall", "-y", *present)} && {build}' if present else build


def diagnose(env: Environment) -> list[Finding]:
    """Run all checks; an exception in a check becomes a finding."""
    findings = []
    for check in (check_python, check_requirements, check_imports, check_operators, check_hosts, check_hardware):
        try:
            findings += check(env)
        except Exception as error:
            findings.append(Finding(check.__name__.removeprefix('check_'), BROKEN, 'failed', why=describe(error)))
    return findings


def describe(error: BaseException) -> str:
    """The error in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]


def attempt(
    name: str, action: Callable[[], object], fix: str | Callable[[Exception], str], good: str = 'works',
    bad: str = 'does not work', why: str = '', state: str = BROKEN,
) -> Finding:
    """`OK` if an action succeeds, else `state` with the error and, behind it, `why`."""
    try:
        action()
    except Exception as error:
        return Finding(name, state, bad, why=describe(error) + why, fix=fix(error) if callable(fix) else fix)
    return Finding(name, OK, good)


def check_python(env: Environment) -> Iterator[Finding]:
    supported = (3, 10) <= env.python[:2] <= (3, 12)
    yield Finding('Python', OK if supported else BROKEN, '.'.join(map(str, env.python)), '>=3.10,<3.13',
                  fix='' if supported else 'make install PYTHON=python3.11')


def check_requirements(env: Environment) -> Iterator[Finding]:
    """Compare each declared requirement with the distribution that provides its module."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in env.requirements()]
    except metadata.PackageNotFoundError:
        yield Finding('mae_mm', BROKEN, 'not installed', why='its metadata hold the required ranges',
                      fix=env.install_mae_mm())
        return
    yield Finding('mae_mm', OK, __version__)
    for requirement in declared:
        marker = str(requirement.marker or '')
        extra = marker.split('"')[1] if marker.startswith('extra == ') else ''
        if extra in ('all', 'dev'):  # `all` repeats the other extras
            continue
        versions = env.versions(MODULES.get(requirement.name, requirement.name))
        wanted = ','.join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
        fits = all(requirement.specifier.contains(version, prereleases=True) for version in versions.values())
        yield Finding(
            requirement.name, OK if versions and fits else NOTE if extra and not versions else BROKEN,
            spell(requirement.name, versions) or 'not installed', wanted,
            why=f'only {extra} needs it' if extra and not versions else '',
            fix='' if versions and fits else env.pip('install', requirement.name + wanted))


def spell(module: str, versions: dict[str, str]) -> str:
    """`2.1.0` for mmcv from `mmcv`, `2.3.6 (onedl-mmcv)` from a distribution of another name."""
    same = module.replace('-', '_').lower()
    return ', '.join(version if name.replace('-', '_').lower() == same else f'{version} ({name})'
                     for name, version in versions.items())


def check_imports(env: Environment) -> Iterator[Finding]:
    """Packages that import only beside others of the right build, and parts that are optional."""
    yield attempt(
        'opencv', lambda: env.load('cv2'), lambda error: 'apt-get install libgl1 libglib2.0-0'
        if 'libg' in str(error).lower() else env.pip('install', 'opencv-python'))  # libGL.so.1, libgthread-2.0.so.0
    yield attempt('crop decoder', lambda: env.load('mae_mm._jpeg_crop'),
                  f'apt-get install libjpeg62-turbo-dev && {env.install_mae_mm()}', bad='not built',
                  why='; optional, it makes loading of JPEGs faster', state=NOTE)
    yield attempt('pkg_resources', lambda: env.load('pkg_resources'), env.pip('install', 'setuptools<81'),
                  why='; mmengine needs it')
    yield attempt('mae_mm.ViT', lambda: find_vit(env), env.install_mae_mm(), 'registered', 'not registered')
    torch = env.load('torch')
    yield attempt('numpy with torch', lambda: torch.zeros(2).numpy(),  # fails across NumPy's change of ABI, 1 to 2
                  env.pip('install', '--force-reinstall', '--no-deps', 'numpy'))
    yield attempt(
        'torchvision operators', lambda: tiny_nms(torch, env.load('torchvision.ops').nms),
        env.pip('install', '--force-reinstall', f'torch=={torch.__version__.split("+")[0]}', 'torchvision'),
        why=f'; torch {torch.__version__} and torchvision are of different builds')


def find_vit(env: Environment) -> None:
    if env.load('mmengine.registry').MODELS.get('mae_mm.ViT') is None:
        raise LookupError('mmengine does not find it by its prefix')


def tiny_nms(torch: ModuleType, nms: Callable, device: str = 'cpu') -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    nms(boxes.to(device), boxes.new_ones(1).to(device), 0.5)


def check_operators(env: Environment) -> Iterator[Finding]:
    """mmcv, then its compiled operators on each device; mmcv-lite has none, and is enough without mmdet and mmseg."""
    versions = env.versions('mmcv')
    fault = 'these overwrite each other' if len(versions) > 1 else ''
    yield Finding('mmcv', OK if len(versions) == 1 else BROKEN, spell('mmcv', versions) or 'not installed',
                  '>=2.0,<2.4', fault, '' if len(versions) == 1 else env.rebuild_mmcv())
    if not versions:
        return
    torch, needed = env.load('torch'), [host for host in HOSTS if env.versions(host)]
    why = f'{" and ".join(needed)} need them' if needed else 'not needed for pre-training and classification'
    for device in ['cpu', *['cuda'] * torch.cuda.is_available()]:
        yield attempt(
            f'mmcv operators ({device})', lambda device=device: tiny_nms(torch, env.load('mmcv.ops').nms, device),
            env.rebuild_mmcv(), why=f'; {why}', state=BROKEN if needed else NOTE)


def check_hosts(env: Environment) -> Iterator[Finding]:
    """Import each host; each asserts a range of mmcv of its own, which differs between upstream and the forks."""
    for host in ('mmpretrain', *HOSTS):
        if env.versions(host):
            yield attempt(f'{host} models', lambda host=host: env.load(f'{host}.models'),
                          lambda error, host=host: fix_import(env, host, error), 'import', 'do not import')


def fix_import(env: Environment, host: str, error: Exception) -> str:
    """The command that fixes the import of a host."""
    if 'mmcv' in describe(error):  # no `mmcv._ext`, or one for another torch, or a version that the host refuses
        return env.rebuild_mmcv()
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if env.versions('transformers') and any('transformers' in text or 'multimodal' in text
                                            for text in (str(error), *files)):
        return env.pip('install', 'transformers<4.52')  # mmpretrain 1.2.0 imports what 4.52 removed
    if isinstance(error, ModuleNotFoundError) and error.name:
        return env.pip('install', error.name)
    if 'numpy.dtype size changed' in str(error):  # compiled for an older NumPy
        return env.pip('install', '-U', 'pycocotools', 'scipy')
    pins = [f'{name}=={version}' for name, version in env.versions(host).items()]
    return env.pip('install', '--force-reinstall', '--no-deps', *pins)


def check_hardware(env: Environment) -> Iterator[Finding]:
    torch = env.load('torch')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding('CPU', OK, f'{cores} cores, {capability}, {torch.get_num_threads()} threads')
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        # Before compute capability 8 (Ampere), bfloat16 is emulated, and slower than float32.
        bf16 = 'bf16' if gpu.major >= 8 else 'no bf16: train with float16 or float32'
        yield Finding(f'GPU {index}', OK, f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}')
    if not torch.cuda.is_available():
        driver = env.has_nvidia_driver()
        why = (f'there is a driver, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU; nvidia-smi '
               'shows the newest CUDA version that the driver supports, pytorch.org the build of torch for it')
        yield Finding('GPU', NOTE if driver else OK, 'none; training runs on the CPU', why=why if driver else '')


def report(findings: list[Finding], env: Environment) -> str:
    """The findings as a table, with the reason and the fix below each fault."""
    name_width, found_width = (max(len(getattr(finding, field)) for finding in findings) for field in ('name', 'found'))
    lines = [f'mae_mm {__version__} doctor, {env.executable}', '']
    for finding in findings:
        state = finding.state.upper() if finding.state == BROKEN else finding.state
        row = f'  {state:6}  {finding.name:{name_width}}  {finding.found:{min(found_width, 40)}}  {finding.wanted}'
        lines.append(row.rstrip())
        for key in ('why', 'fix'):
            if finding.state != OK and getattr(finding, key):
                lines.append(f'          {key}: {getattr(finding, key)}')
    faults = sum(finding.state == BROKEN for finding in findings)
    lines += ['', f'{faults} broken. Fix the first one first: later ones may follow from it.' if faults
              else 'Nothing is broken.']
    return '\n'.join(lines)


def main(arguments: list[str] | None = None, env: Environment | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m mae_mm.doctor',
        description='Lists what mae_mm needs, what is installed, and how to fix what is broken. Exits with 1 if '
                    'something is broken.')
    parser.add_argument('--json', action='store_true', help='machine-readable report')
    as_json = parser.parse_args(arguments).json
    env = env or Environment()
    noise = io.StringIO()  # what packages print while they are imported
    with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        warnings.simplefilter('ignore')
        findings = diagnose(env)
    broken = any(finding.state == BROKEN for finding in findings)
    if as_json:
        facts = dict(ok=not broken, version=__version__, python=env.executable, findings=[asdict(f) for f in findings])
        print(json.dumps(facts, indent=2))
    else:
        print(report(findings, env))
    return int(broken)


if __name__ == '__main__':
    sys.exit(main())
