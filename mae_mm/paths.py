"""Where `configs/` and `tools/` are: beside the package in a checkout, in `mae_mm/.mim` in an installed wheel."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent if (PACKAGE.parent / 'model-index.yml').is_file() else PACKAGE / '.mim'
CONFIGS = ROOT / 'configs'


def is_released(checkpoint: str | Path) -> bool:
    """Whether this is a short name of weights that the MAE authors released (configs/pretrain/metafile.yml)."""
    return re.fullmatch('mae_vit_(base|large|huge)(_full)?', str(checkpoint)) is not None


def find_config(path: str | Path) -> Path | None:
    """A config file from its path; one that starts with `configs/` is found from any folder."""
    return next((found for found in (Path(path), ROOT / path) if found.is_file()), None)


def find_tools() -> dict[str, Path]:
    """The files of `tools/` by name."""
    return {path.stem: path for path in sorted((ROOT / 'tools').iterdir()) if path.suffix in ('.py', '.sh')}


def as_installed(text: str) -> str:
    """A message with its commands as this installation has them: of a wheel, `mae-mm train` for `tools/train.py`."""
    if PACKAGE.parent == ROOT:
        return text
    return re.sub(r'(?:(?:python|bash) )?tools/(\w+)\.(?:py|sh)', r'mae-mm \1', text)
