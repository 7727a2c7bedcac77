"""Resolved recipes and metafiles against what was published: `tests/published/*.yml`, written from the sources.

`results.yml` and `ablation.yml` have results. The other files are lists of groups: a source, its tag, configs as globs
(`!` excludes), and values by their key in the resolved config. Within a list, a key names an item by the end of its
type (`param_scheduler.LinearLR.end`); null stands for an absent key or None. `base_lr` is the rate for 256
images, `floor_lr` the one at the end.
"""

from fnmatch import fnmatch
from typing import Any

import pytest
from helpers import ROOT
from helpers.configs import recipe
from mmengine.config import Config
from mmengine.fileio import load

from mae_mm.transfer.published import read_metafiles
from mae_mm.transfer.rows import read_table

GROUPS = [group for path in sorted((ROOT / 'tests/published').glob('*.yml')) if path.stem not in ('results', 'ablation')
          for group in load(path)]
FAMILIES = ('pretrain', 'classification', 'linear', 'attentive', 'partial', 'detection', 'segmentation', 'baselines')
RECIPES = ['mae_pretrain', *sorted(
    str(path.relative_to(ROOT / 'configs').with_suffix('')) for family in FAMILIES
    for path in (ROOT / 'configs' / family).rglob('*.py'))]


def matches(name: str, patterns: str) -> bool:
    globs = patterns.split()
    return any(fnmatch(name, glob) for glob in globs if glob[0] != '!') and not any(
        fnmatch(name, glob[1:]) for glob in globs if glob[0] == '!')


def value_of(cfg: Config, key: str) -> Any:
    """The value of a key, see above."""
    lr = cfg.optim_wrapper.optimizer.lr
    if key == 'base_lr':
        return lr * 256 / cfg.auto_scale_lr.base_batch_size
    if key == 'floor_lr':
        return lr * value_of(cfg, 'param_scheduler.CosineAnnealingLR.eta_min_ratio')
    value = cfg
    for part in key.split('.'):
        if isinstance(value, (list, tuple)):
            value, = [item for item in value if item['type'].rsplit('.')[-1] == part]
        else:
            value = (value or {}).get(part)
    return value


def differences(cfg: Config, values: dict) -> dict[str, tuple]:
    """The keys whose value is another one: (found, published)."""
    found = {key: value_of(cfg, key) for key in values}
    return {key: (found[key], value) for key, value in values.items() if not _equal(found[key], value)}


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, float):
        return found == pytest.approx(value, rel=1e-9, abs=0)
    if isinstance(value, list):
        return found is not None and list(found) == value
    if isinstance(value, dict):
        return found is not None and found.keys() == value.keys() and all(
            _equal(found[key], part) for key, part in value.items())
    return found == value and isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_have_the_published_values(name):
    groups = [group for group in GROUPS if matches(name, group['configs'])]
    assert groups or name.endswith('_ms'), f'no published value of {name}'
    wrong = {group['source']: found for group in groups if (found := differences(recipe(name), group['values']))}
    assert not wrong, '\n'.join(f'{source}: {key} is {found!r}, published {value!r}' for source, values in wrong.items()
                                for key, (found, value) in values.items())


@pytest.mark.parametrize('group', GROUPS, ids=lambda group: group['configs'][:40])
def test_every_group_is_used_and_tagged(group):
    assert group['tag'] in ('paper', 'release', 'reproduced') and group['source']
    for pattern in group['configs'].split():
        assert pattern[0] == '!' or any(fnmatch(name, pattern) for name in RECIPES), pattern


def test_one_changed_value_is_found():
    """What the comparison is worth: each key of each group, changed in the config, is reported."""
    cfg = Config(dict(
        optim_wrapper=dict(optimizer=dict(lr=2e-3)), auto_scale_lr=dict(base_batch_size=1024),
        steps=[dict(type='a.B', c=1)], pair=(1, 2), some=dict(x=1.0), flag=True))
    values = {'base_lr': 5e-4, 'steps.B.c': 1, 'pair': [1, 2], 'some': {'x': 1.0}, 'flag': True, 'absent.key': None}
    assert differences(cfg, values) == {}
    changed = {'base_lr': 6e-4, 'steps.B.c': 2, 'pair': [1, 3], 'some': {'x': 1.1}, 'flag': 1, 'absent.key': 0}
    assert differences(cfg, changed).keys() == changed.keys()


def test_metafiles_have_the_published_results():
    published = {name: (source.split(',')[0], values if isinstance(values, list) else [values])
                 for source, entries in load(ROOT / 'tests/published/results.yml').items()
                 for name, values in entries.items()}
    assert {entry.name: (entry.tag, list(entry.metrics.values())) for entry in read_metafiles()} == published


@pytest.mark.parametrize(('table', 'published'), load(ROOT / 'tests/published/ablation.yml').items())
def test_ablations_have_the_published_results(table, published):
    found = {name: [row.finetune, row.linear] for name, row in read_table(
        ROOT / f'configs/ablation/{table}.py').rows.items() if row.finetune or row.linear}
    assert found == published['rows']
