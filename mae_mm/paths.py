"""Where `configs/` and `tools/` are: beside the package in a checkout, in `mae_mm/.mim` in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent if (PACKAGE.parent / 'model-index.yml').is_file() else PACKAGE / '.mim'


def find_config(path: str | Path) -> Path | None:
    """A config file from its path; one that starts with `configs/` is found from any folder."""
    return next((found for found in (Path(path), ROOT / path) if found.is_file()), None)
