"""Names of the package itself, each in a fresh interpreter."""

import subprocess
import sys

import pytest

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
        assert name == '__version__' or value.__name__ == name
    with pytest.raises(AttributeError, match='nothing'):
        mae_mm.nothing  # noqa: B018
