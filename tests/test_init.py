"""Names of the package itself, each in a fresh interpreter."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

import mae_mm

HOSTS = ('mmpretrain', 'mmdet', 'mmseg')


def imported_by(code: str) -> set[str]:
    """Top-level packages in `sys.modules` after running `code`."""
    report = 'import sys; print(*{name.split(".")[0] for name in sys.modules})'
    out = subprocess.run([sys.executable, '-c', f'{code}\n{report}'], capture_output=True, text=True, check=True)
    return set(out.stdout.split('\n')[-2].split())


def test_the_package_alone_imports_nothing_heavy() -> None:
    assert not imported_by('import mae_mm; mae_mm.__version__') & {'torch', 'numpy', 'mmengine', 'timm', *HOSTS}


def test_what_detectors_use_imports_no_host() -> None:
    packages = imported_by('from mae_mm import ViT, MAEDecoder, SimplePyramid, load_pretrained, read_checkpoint')
    assert 'torch' in packages and not packages & set(HOSTS)


def test_every_name_is_importable_and_listed() -> None:
    assert set(mae_mm.__all__) <= set(dir(mae_mm))
    for name in mae_mm.__all__:
        value = getattr(mae_mm, name)
        assert name in ('__version__', 'CONFIGS') or value.__name__ == name
    with pytest.raises(AttributeError, match='nothing'):
        mae_mm.nothing  # noqa: B018


@pytest.mark.parametrize(('own', 'expected'), [
    ({}, ('2000', '1', None)), ({'OMP_WAIT_POLICY': 'ACTIVE'}, (None, None, 'ACTIVE')),
    ({'GOMP_SPINCOUNT': '7'}, ('7', None, None)), ({'KMP_BLOCKTIME': '200'}, (None, '200', None))])
def test_threads_stop_spinning_unless_the_user_decides(own: dict, expected: tuple) -> None:
    env = {name: value for name, value in os.environ.items() if name not in mae_mm.SPINNING}
    code = 'import os, mae_mm; print([os.environ.get(name) for name in mae_mm.SPINNING])'
    out = subprocess.run([sys.executable, '-c', code], env={**env, **own}, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(list(expected))


def test_tools_and_worker_processes_set_it_before_torch() -> None:
    """What torch's runtime reads must be there before torch is imported, in whatever way a process starts."""
    programs = {path.name: path.read_text() for path in sorted((ROOT / 'tools').glob('*.py'))}
    programs['conftest.py'] = (ROOT / 'tests/conftest.py').read_text()
    for name, text in programs.items():
        first = re.search(r'^ *(?:import|from) (mae_mm|torch|mmengine)\b', text, re.MULTILINE)
        assert first is None or first[1] == 'mae_mm' or name == 'build_mmcv.py', name
