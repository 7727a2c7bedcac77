"""Recipes of the project, each read once in a process."""

from functools import cache

from mmengine.config import Config

from helpers import ROOT
from mae_mm.engine.runner import load_config

CONFIGS = ROOT / 'configs'
# All but the tables of ablations, which are lists of rows.
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix('')) for path in CONFIGS.rglob('*.py')
               if '\nrows = ' not in path.read_text())


@cache
def recipe(name: str) -> Config:
    """The resolved config of a name, e.g. 'detection/vitdet_b_coco'; not to be changed."""
    return load_config(str(CONFIGS / f'{name}.py'))
