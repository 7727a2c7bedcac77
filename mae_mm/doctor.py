"""What is installed, what is broken, and the command that mends it: `python -m mae_mm.doctor [--json]`.

The wanted ranges are those of setup.py, read from the installed package's metadata, so they are written once. Versions
are looked up by import name, because the `onedl-*` forks, `mmcv-lite` and `opencv-python-headless` provide the same
modules under other distribution names. Every check asks its questions through `Environment`, which tests replace.
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
from pathlib import Path
from types import ModuleType

from mae_mm import __version__

OK, NOTE, BROKEN = 'ok', 'note', 'broken'
VERBS = {BROKEN: 'mend', NOTE: 'add'}
MODULES = {'mmsegmentation': 'mmseg', 'pillow': 'PIL', 'scikit-image': 'skimage'}  # where the two names differ
HOSTS = {'mmdet': 'detection', 'mmseg': 'segmentation'}  # host that needs mmcv's operators: extra that brings it


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` is the command to run when the state is not `ok`."""

    name: str
    state: str
    found: str
    wanted: str = ''
    why: str = ''
    mend: str = ''


class Environment:
    """The questions that the checks ask of this Python."""

    python = sys.version_info[:3]
    executable = sys.executable

    def __init__(self) -> None:
        self._providers = metadata.packages_distributions()

    def versions(self, module: str) -> dict[str, str]:
        """Version of each distribution that provides `module`, by distribution name."""
        return {name: metadata.version(name) for name in dict.fromkeys(self._providers.get(module, []))}

    def requirements(self) -> list[str]:
        """mae_mm's declared requirements.

        Raises:
            PackageNotFoundError: if mae_mm runs from a checkout that is not installed.
        """
        return metadata.requires('mae_mm') or []

    def load(self, module: str) -> ModuleType:
        return importlib.import_module(module)

    def has_nvidia_driver(self) -> bool:
        return shutil.which('nvidia-smi') is not None

    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

    def pip(self, *arguments: str) -> str:
        """The exact command line of this Python's pip."""
        return shlex.join([self.executable, '-m', 'pip', *arguments])

    def rebuild_mmcv(self) -> str:
        """The command that puts mmcv with working operators in place of what provides `mmcv` now."""
        package = Path(__file__).parent
        scripts = package / '.mim' / 'tools' / 'build_mmcv.py', package.parent / 'tools' / 'build_mmcv.py'
        build = shlex.join([self.executable, str(next(filter(Path.exists, scripts), scripts[0]))])
        present = self.versions('mmcv')
        if list(present) == ['onedl-mmcv']:  # built without torch in sight, as pip does by default, it lacks them too
            return self.pip('install', '--no-build-isolation', '--no-deps', '--force-reinstall', '--no-cache-dir',
                            f'onedl-mmcv=={present["onedl-mmcv"]}')
        return f'{self.pip("uninstall", "-y", *present)} && {build}' if present else build


def diagnose(env: Environment) -> list[Finding]:
    """Run all checks; a check that raises what it did not foresee becomes a finding of its own."""
    findings = []
    for check in (check_python, check_requirements, check_numpy, check_torchvision, check_opencv, check_crop_decoder,
                  check_pkg_resources, check_operators, check_hosts, check_registry, check_hardware):
        try:
            findings += check(env)
        except Exception as error:
            findings.append(Finding(check.__name__.removeprefix('check_'), BROKEN, 'failed', why=describe(error)))
    return findings


def describe(error: BaseException) -> str:
    """The error in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]


def check_python(env: Environment) -> Iterator[Finding]:
    found, wanted = '.'.join(map(str, env.python)), '>=3.10,<3.13'
    if (3, 10) <= env.python[:2] <= (3, 12):
        yield Finding('Python', OK, found, wanted)
    else:
        yield Finding('Python', BROKEN, found, wanted, mend='make install PYTHON=python3.11')


def check_requirements(env: Environment) -> Iterator[Finding]:
    """Compare each declared requirement with whatever distribution provides its module."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in env.requirements()]
    except metadata.PackageNotFoundError:
        yield Finding('mae_mm', BROKEN, 'not installed', why='the ranges to check are in its metadata',
                      mend=env.pip('install', '--no-deps', '-e', str(Path(__file__).parents[1])))
        return
    yield Finding('mae_mm', OK, __version__)
    for requirement in declared:
        extra = extra_of(requirement)
        if extra in ('all', 'dev'):  # `all` repeats the others
            continue
        versions = env.versions(MODULES.get(requirement.name, requirement.name))
        wanted = ','.join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
        mend = env.pip('install', requirement.name + wanted)
        if not versions and extra:
            yield Finding(requirement.name, NOTE, 'not installed', wanted, f'only {extra} needs it', mend)
        elif not versions:
            yield Finding(requirement.name, BROKEN, 'not installed', wanted, mend=mend)
        else:
            inside = all(requirement.specifier.contains(version, prereleases=True) for version in versions.values())
            yield Finding(requirement.name, OK if inside else BROKEN, spell(requirement.name, versions), wanted,
                          mend='' if inside else mend)


def extra_of(requirement) -> str:
    """The extra that asks for the requirement, or an empty string."""
    marker = str(requirement.marker or '')
    return marker.split('"')[1] if marker.startswith('extra == ') else ''


def spell(module: str, versions: dict[str, str]) -> str:
    """`2.1.0` for mmcv by `mmcv`, `2.3.6 (onedl-mmcv)` for a provider of another name."""
    same = module.replace('-', '_').lower()
    return ', '.join(version if name.replace('-', '_').lower() == same else f'{version} ({name})'
                     for name, version in versions.items())


def check_numpy(env: Environment) -> Iterator[Finding]:
    """torch and NumPy exchange arrays; across NumPy's 1 -> 2 change of binary interface they may not."""
    torch = env.load('torch')
    try:
        torch.zeros(2).numpy()
    except RuntimeError as error:
        yield Finding('numpy with torch', BROKEN, 'no arrays pass', why=describe(error),
                      mend=env.pip('install', '--force-reinstall', '--no-deps', 'numpy'))
    else:
        yield Finding('numpy with torch', OK, 'arrays pass')


def check_torchvision(env: Environment) -> Iterator[Finding]:
    """torchvision's own operators load only beside the torch it was built for."""
    torch = env.load('torch')
    try:
        tiny_nms(torch, env.load('torchvision.ops').nms)
    except Exception as error:
        release = torch.__version__.split('+')[0]
        yield Finding('torchvision operators', BROKEN, 'do not load',
                      why=f'{describe(error)}: torch {torch.__version__} and torchvision come from different builds',
                      mend=env.pip('install', '--force-reinstall', f'torch=={release}', 'torchvision'))
    else:
        yield Finding('torchvision operators', OK, 'load')


def tiny_nms(torch: ModuleType, nms: Callable, device: str = 'cpu') -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    nms(boxes.to(device), boxes.new_ones(1).to(device), 0.5)


def check_opencv(env: Environment) -> Iterator[Finding]:
    try:
        cv2 = env.load('cv2')
    except ImportError as error:
        system = 'libG' in str(error) or 'libg' in str(error)  # libGL.so.1, libgthread-2.0.so.0
        yield Finding('opencv', BROKEN, 'does not import', why=describe(error),
                      mend='apt-get install libgl1 libglib2.0-0' if system else env.pip('install', 'opencv-python'))
    else:
        yield Finding('opencv', OK, cv2.__version__)


def check_crop_decoder(env: Environment) -> Iterator[Finding]:
    """The optional extension, which was built if libjpeg-turbo's headers were there."""
    try:
        env.load('mae_mm._jpeg_crop')
    except ImportError as error:
        install = env.pip('install', '--no-deps', '--no-build-isolation', '-e', str(Path(__file__).parents[1]))
        yield Finding('crop decoder', NOTE, 'not built', why=f'it makes loading JPEGs faster; {describe(error)}',
                      mend=f'apt-get install libjpeg62-turbo-dev && {install}')
    else:
        yield Finding('crop decoder', OK, 'built')


def check_pkg_resources(env: Environment) -> Iterator[Finding]:
    try:
        env.load('pkg_resources')
    except ImportError as error:
        yield Finding('pkg_resources', BROKEN, 'does not import', why=f'{describe(error)}; mmengine needs it',
                      mend=env.pip('install', 'setuptools<81'))
    else:
        yield Finding('pkg_resources', OK, 'imports')


def check_operators(env: Environment) -> Iterator[Finding]:
    """mmcv itself, then its compiled operators on each device; mmcv-lite has none and serves without the hosts."""
    versions = env.versions('mmcv')
    if not versions:
        yield Finding('mmcv', BROKEN, 'not installed', '>=2.0,<2.4', mend=env.rebuild_mmcv())
        return
    several = len(versions) > 1
    yield Finding('mmcv', BROKEN if several else OK, spell('mmcv', versions), '>=2.0,<2.4',
                  'these overwrite each other' if several else '', env.rebuild_mmcv() if several else '')
    torch = env.load('torch')
    for device in ['cpu', *['cuda'] * torch.cuda.is_available()]:
        name = f'mmcv operators ({device})'
        try:
            tiny_nms(torch, env.load('mmcv.ops').nms, device)
            yield Finding(name, OK, 'load')
        except Exception as error:
            needed = [host for host in HOSTS if env.versions(host)]
            why = describe(error) + (f'; {" and ".join(needed)} need them' if needed else
                                     '; enough for pre-training and classification')
            yield Finding(name, BROKEN if needed else NOTE, 'do not load', why=why, mend=env.rebuild_mmcv())


def check_hosts(env: Environment) -> Iterator[Finding]:
    """Import each host; it asserts its own cap on mmcv, which differs between upstream and the forks."""
    for host in ('mmpretrain', *HOSTS):
        if not env.versions(host):
            continue
        try:
            env.load(f'{host}.models')
        except Exception as error:
            why, mend = explain_import(env, host, error)
            yield Finding(f'{host} models', BROKEN, 'do not import', why=why, mend=mend)
        else:
            yield Finding(f'{host} models', OK, 'import')


def explain_import(env: Environment, host: str, error: Exception) -> tuple[str, str]:
    """Why a host does not import, and the command that mends it."""
    why = describe(error)
    if 'mmcv' in why:  # no `mmcv._ext`, one built for another torch, or a version over the host's cap
        return why, env.rebuild_mmcv()
    transformers = env.versions('transformers')
    if transformers and any('transformers' in place or 'multimodal' in place for place in places(error)):
        # mmpretrain 1.2.0 imports what transformers 4.52 removed, wherever transformers is installed.
        why = f'{why}; with transformers {spell("transformers", transformers)}'
        return why, env.pip('install', 'transformers<4.52')
    if isinstance(error, ModuleNotFoundError) and error.name:
        return why, env.pip('install', error.name)
    if 'numpy.dtype size changed' in why:
        return f'{why}; a compiled package is older than this numpy', env.pip('install', '-U', 'pycocotools', 'scipy')
    pins = [f'{name}=={version}' for name, version in env.versions(host).items()]
    return why, env.pip('install', '--force-reinstall', '--no-deps', *pins)


def places(error: Exception) -> Iterator[str]:
    """The error's message and the files it passed through."""
    yield str(error)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_code.co_filename


def check_registry(env: Environment) -> Iterator[Finding]:
    """Every host finds this package's types by their prefix alone."""
    found = env.load('mmengine.registry').MODELS.get('mae_mm.ViT')
    yield Finding('mae_mm.ViT', OK if found else BROKEN, 'resolves' if found else 'not found',
                  mend='' if found else env.pip('install', '--no-deps', '-e', str(Path(__file__).parents[1])))


def check_hardware(env: Environment) -> Iterator[Finding]:
    torch = env.load('torch')
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding('CPU', OK, f'{env.cores()} cores, {capability}, {torch.get_num_threads()} threads')
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        # Emulated bfloat16 (before Ampere, compute capability 8) is slower than float32.
        bf16 = 'bf16' if gpu.major >= 8 else 'no bf16: train with float16 or float32'
        yield Finding(f'GPU {index}', OK, f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}')
    if not torch.cuda.is_available():
        driver = env.has_nvidia_driver()
        why = f'a driver is there, but torch {torch.__version__} (CUDA {torch.version.cuda}) does not see a GPU; see ' \
              'nvidia-smi for the CUDA version that the driver serves, and pytorch.org for the build that fits'
        yield Finding('GPU', NOTE if driver else OK, 'none; training runs on the CPU', why=why if driver else '')


def report(findings: list[Finding], env: Environment) -> str:
    """The findings as a table, with the command that helps below each fault."""
    name_width, found_width = (max(len(getattr(finding, field)) for finding in findings) for field in ('name', 'found'))
    lines = [f'mae_mm {__version__} doctor, {env.executable}', '']
    for finding in findings:
        state = finding.state.upper() if finding.state == BROKEN else finding.state
        row = f'  {state:6}  {finding.name:{name_width}}  {finding.found:{min(found_width, 40)}}  {finding.wanted}'
        lines.append(row.rstrip())
        if finding.why and finding.state != OK:
            lines.append(f'          why: {finding.why}')
        if finding.mend and finding.state != OK:
            lines.append(f'          {VERBS[finding.state]}: {finding.mend}')
    faults = sum(finding.state == BROKEN for finding in findings)
    lines += ['', f'{faults} broken. Mend from the top: later lines may follow from earlier ones.' if faults
              else 'Nothing is broken.']
    return '\n'.join(lines)


def main(arguments: list[str] | None = None, env: Environment | None = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m mae_mm.doctor', description='Lists what mae_mm needs, what is '
                                     'there, and what mends it. Exit code 1 when something is broken.')
    parser.add_argument('--json', action='store_true', help='machine-readable report')
    as_json = parser.parse_args(arguments).json
    env = env or Environment()
    noise = io.StringIO()  # what the packages print while they are imported
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
