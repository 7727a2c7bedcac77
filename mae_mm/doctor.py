"""Check what is installed: `python -m mae_mm.doctor [--json]` lists what is broken, and the command that fixes it.

The required ranges are those of the installed package's metadata. Versions are looked up by import name, because
`mmcv-lite` and the `onedl-*` forks provide the same modules. All checks use `Environment`, which tests replace.
"""

import argparse
import contextlib
import importlib
import importlib.metadata as metadata
import io
import json
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from packaging.requirements import Requirement

from mae_mm import __version__
from mae_mm.paths import ROOT

OK, NOTE, BROKEN = 'ok', 'note', 'broken'
MODULES = {  # distribution: module
    'mmsegmentation': 'mmseg', 'openslide-python': 'openslide', 'pillow': 'PIL', 'scikit-image': 'skimage',
    'scikit-learn': 'sklearn'}
HOSTS = ('mmdet', 'mmseg')  # they need mmcv's compiled operators
INSTALL_MAE_MM = ('install', '--no-deps', '--no-build-isolation', '-e', str(ROOT))


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
    load = staticmethod(importlib.import_module)
    requires = staticmethod(metadata.requires)
    which = staticmethod(shutil.which)

    def __init__(self) -> None:
        self._providers = metadata.packages_distributions()

    def versions(self, module: str) -> dict[str, str]:
        """Version of each distribution that provides `module`, by distribution name."""
        return {name: metadata.version(name) for name in dict.fromkeys(self._providers.get(module, []))}

    def pip(self, *arguments: str) -> str:
        """A command line of this Python's pip."""
        return shlex.join([self.executable, '-m', 'pip', *arguments])

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
    for check in (check_versions, check_imports, check_hardware):
        whole = attempt(check.__name__.removeprefix('check_'), lambda check=check: findings.extend(check(env)))
        if whole.state == BROKEN:
            findings.append(whole)
    return [replace(finding, why='', fix='') if finding.state == OK else finding for finding in findings]


def attempt(
    name: str, action: Callable[[], object], fix: str | Callable[[Exception], str] = '', why: str = '',
    state: str = BROKEN,
) -> Finding:
    """`OK` if an action succeeds, else `state` with the error and, behind it, `why`."""
    try:
        action()
    except Exception as error:
        why = f'{type(error).__name__}: {" ".join(str(error).split())}'[:300] + why
        return Finding(name, state, 'does not work', '', why, fix(error) if callable(fix) else fix)
    return Finding(name, OK, 'works')


def check_versions(env: Environment) -> Iterator[Finding]:
    """Compare Python, mmcv and each declared requirement with the distribution that provides its module."""
    yield Finding('Python', OK if (3, 10) <= env.python[:2] <= (3, 12) else BROKEN, '.'.join(map(str, env.python)),
                  '>=3.10,<3.13', fix='make install PYTHON=python3.11')
    declared = []
    try:
        declared = env.requires('mae_mm')
    except metadata.PackageNotFoundError:  # in a checkout
        yield Finding('mae_mm', BROKEN, 'not installed', fix=env.pip(*INSTALL_MAE_MM))
    for requirement in map(Requirement, [*declared, 'mmcv>=2.0,<2.4']):
        name = requirement.name
        extra = str(requirement.marker or '').partition('extra == ')[2].strip('"')
        if extra in ('all', 'dev', 'docs'):  # `all` repeats the other extras
            continue
        versions = env.versions(MODULES.get(name, name.replace('-', '_')))
        wanted = ','.join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
        fits = all(requirement.specifier.contains(version, prereleases=True) for version in versions.values())
        state, why = OK if versions and fits else BROKEN, ''
        if extra and not versions:
            state, why = NOTE, f'only {extra} needs it'
        if name == 'mmcv' and len(versions) > 1:
            state, why = BROKEN, 'these overwrite each other'
        found = [version if name == provider else f'{version} ({provider})' for provider, version in versions.items()]
        fix = env.rebuild_mmcv() if name == 'mmcv' else env.pip('install', name + wanted)
        yield Finding(name, state, ', '.join(found) or 'not installed', wanted, why, fix)


def check_imports(env: Environment) -> Iterator[Finding]:
    """Packages that work only beside others of the right build, and parts that are optional."""
    yield attempt(
        'opencv', lambda: env.load('cv2'), lambda error: 'apt-get install libgl1 libglib2.0-0'
        if 'libg' in str(error).lower() else env.pip('install', 'opencv-python'))  # libGL.so.1, libgthread-2.0.so.0
    yield attempt('crop decoder', lambda: env.load('mae_mm._jpeg_crop'),
                  f'apt-get install libjpeg62-turbo-dev && {env.pip(*INSTALL_MAE_MM)}',
                  '; optional, it makes loading of JPEGs faster', NOTE)
    yield attempt('mae_mm.ViT', lambda: env.load('mmengine.registry').MODELS.get('mae_mm.ViT').__name__,
                  env.pip(*INSTALL_MAE_MM), '; mmengine does not find it by its prefix')
    torch = env.load('torch')
    yield attempt(
        'torchvision operators', lambda: tiny_nms(env, 'torchvision.ops'),
        env.pip('install', '--force-reinstall', f'torch=={torch.__version__.split("+")[0]}', 'torchvision'),
        f'; torch {torch.__version__} and torchvision are of different builds')
    hosts = ' and '.join(host for host in HOSTS if env.versions(host))
    why = f'; {hosts} need them' if hosts else '; not needed for pre-training and classification'  # as in mmcv-lite
    for device in ['cpu', *['cuda'] * torch.cuda.is_available()]:
        yield attempt(f'mmcv operators ({device})', lambda device=device: tiny_nms(env, 'mmcv.ops', device),
                      env.rebuild_mmcv(), why, BROKEN if hosts else NOTE)
    for host in filter(env.versions, ('mmpretrain', *HOSTS)):
        yield attempt(f'{host} models', lambda host=host: env.load(f'{host}.models'),
                      lambda error, host=host: fix_import(env, host, error))


def tiny_nms(env: Environment, module: str, device: str = 'cpu') -> None:
    boxes = env.load('torch').tensor([[0.0, 0.0, 2.0, 2.0]])
    env.load(module).nms(boxes.to(device), boxes.new_ones(1).to(device), 0.5)


def fix_import(env: Environment, host: str, error: Exception) -> str:
    """The command that fixes the import of a host."""
    if 'mmcv' in str(error):  # no `mmcv._ext`, or one for another torch, or a version that the host refuses
        return env.rebuild_mmcv()
    if 'transformers' in str(error):  # mmpretrain 1.2.0 imports what 4.52 removed
        return env.pip('install', 'transformers<4.52')
    if isinstance(error, ModuleNotFoundError) and error.name:
        return env.pip('install', error.name)
    if 'numpy.dtype size changed' in str(error):  # compiled for an older NumPy
        return env.pip('install', '-U', 'pycocotools', 'scipy')
    pins = [f'{name}=={version}' for name, version in env.versions(host).items()]
    return env.pip('install', '--force-reinstall', '--no-deps', *pins)


def check_hardware(env: Environment) -> Iterator[Finding]:
    torch = env.load('torch')
    yield Finding('CPU', OK, f'{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}')
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        # Before compute capability 8 (Ampere), bfloat16 is emulated, and slower than float32.
        bf16 = 'bf16' if gpu.major >= 8 else 'no bf16: train with float16 or float32'
        yield Finding(f'GPU {index}', OK, f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}')
    if not torch.cuda.is_available():
        why = (f'there is a driver, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU; nvidia-smi '
               'shows the newest CUDA version that the driver supports, pytorch.org the build of torch for it')
        yield Finding('GPU', NOTE if env.which('nvidia-smi') else OK, 'none; training runs on the CPU', why=why)


def report(findings: list[Finding], faults: int, env: Environment) -> str:
    """The findings as a table, with the reason and the fix below each fault."""
    lines = [f'mae_mm {__version__} doctor, {env.executable}', '']
    for one in findings:
        state = one.state.upper() if one.state == BROKEN else one.state
        lines.append(f'  {state:6}  {one.name:21}  {one.found:21}  {one.wanted}'.rstrip())
        lines += [f'          {key}: {text}' for key, text in (('why', one.why), ('fix', one.fix)) if text]
    summary = f'{faults} broken. Fix the first one first: later ones may follow from it.'
    return '\n'.join([*lines, '', summary if faults else 'Nothing is broken.'])


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
    faults = sum(finding.state == BROKEN for finding in findings)
    facts = dict(ok=not faults, version=__version__, python=env.executable, findings=list(map(asdict, findings)))
    print(json.dumps(facts, indent=2) if as_json else report(findings, faults, env))
    return int(faults > 0)


if __name__ == '__main__':
    sys.exit(main())
