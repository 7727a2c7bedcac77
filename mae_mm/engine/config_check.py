"""Mistakes in a config: unknown keys and bad values are refused; errors of constructors get the key they are from."""

import difflib
import inspect
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mae_mm.datasets.pixels import Reading
from mae_mm.datasets.transforms import ReadImage

# Names that hosts' `_base_` files leave at the top level, keys that Runner reads from its config by name, and what
# tools/ablate.py reads (`transfers`).
HELPER_KEYS = {
    'backend_args', 'bgr_mean', 'bgr_std', 'classes', 'compile', 'crop_size', 'custom_imports', 'data_root',
    'dataset_type', 'find_unused_parameters', 'image_size', 'img_ratios', 'img_scale', 'metainfo', 'model_wrapper_cfg',
    'norm_cfg', 'num_classes', 'rand_increasing_policies', 'runner_type', 'strategy', 'sync_bn', 'test_pipeline',
    'train_pipeline', 'transfers', 'tta_model', 'tta_pipeline', 'val_pipeline', 'vis_backends',
}
BUILDERS = ('build_from_cfg', 'build_scheduler_from_cfg')  # of mmengine
RANGES = {  # key: type, least value, bound, what it must be
    'train_dataloader.batch_size': (int, 1, math.inf, 'the number of images for each process, e.g. 64'),
    'train_cfg.max_epochs': (int, 1, math.inf, 'a number of epochs, e.g. 800'),
    'train_cfg.max_iters': (int, 1, math.inf, 'a number of iterations, e.g. 160000'),
    'optim_wrapper.optimizer.lr': (float, 0, math.inf, 'a number, 0 or more, e.g. 0.00015'),
    'model.mask_ratio': (float, 0, 1, 'the fraction of patches to mask, in [0, 1): for 75 % write 0.75'),
}


def check_keys(cfg: Config) -> None:
    """Refuse top-level keys that nothing reads, and hooks without a type: they are misspelt."""
    valid = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | HELPER_KEYS
    for key in cfg:
        if key not in valid:
            raise ValueError(
                f'unknown top-level key {key!r} in {cfg.filename}{_nearest(key, valid)} (for a helper variable of your '
                f'own, write `del {key}` at the end of the file)')
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if hook is not None and not (isinstance(hook, dict) and 'type' in hook):
            raise ValueError(
                f'default_hooks.{name}={hook!r} must be dict(type=…) or None{_nearest(name, set(hooks) - {name})}')


def check_values(cfg: Config) -> None:
    """Refuse numbers out of range, and an unknown optimizer, for which constructors give no readable error."""
    for key, (kind, least, below, right) in RANGES.items():
        value = cfg._cfg_dict
        for part in key.split('.'):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not (type(value) in (kind, int) and least <= value < below):
            raise ValueError(f'{key}={value!r} must be {right}')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if isinstance(name := optimizer.get('type'), str) and OPTIMIZERS.get(name) is None:
        raise ValueError(f'optim_wrapper.optimizer.type={name!r} does not exist{_nearest(name, _names(OPTIMIZERS))}')


@contextmanager
def errors_located(cfg: Config) -> Iterator[None]:
    """Turn errors of constructors and registries into ValueErrors with the config's key and the nearest valid name."""
    try:
        yield
    except (TypeError, KeyError) as error:
        if message := _located(error, cfg):
            raise ValueError(message) from error
        raise


def _located(error: TypeError | KeyError, cfg: Config) -> str | None:
    text = str(error.args[0]) if error.args else ''
    # What mmengine was building, the innermost part last.
    building = [frame.f_locals for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name in BUILDERS]
    part = building[-1] if building else {}
    kind = part.get('cfg', {}).get('type')
    if found := re.match(r'(\S+) is not in the .* registry', text):
        near = _nearest(found[1], _names(part.get('registry')))
        return f'{_path(cfg, "type", found[1])}.type={found[1]!r} does not exist{near}'
    if found := re.match(r"(\w+)\S*\(\) got an unexpected keyword argument '(\w+)'", text):
        name, key = found.groups()
        owner = DataLoader if name == 'DataLoader' else part.get('obj_cls', part.get('scheduler_cls'))
        name = owner.__name__ if inspect.isclass(owner) else name
        bases = inspect.getmro(owner) if inspect.isclass(owner) else ()
        bases += (Reading, ) if ReadImage in bases else ()
        near = _nearest(key, [one for base in bases for one in inspect.signature(base.__init__).parameters])
        return f'{_path(cfg, key, kind)}.{key}: {name} has no such argument{near}'
    if building and isinstance(error, TypeError):
        return f'{_path(cfg, "type", kind)}: {kind} cannot be built: {text}; MAE_MM_DEBUG=1 shows where'
    return None


def _path(cfg: Config, key: str, kind: object) -> str:
    """The first dict of a config that has a key, one of that type before others."""
    found = [(part.get('type') != kind, path) for path, part in _dicts(cfg._cfg_dict.to_dict()) if key in part]
    return min(found, key=lambda one: one[0], default=(True, '…'))[1]


def _names(registry: Registry | None) -> Iterator[str]:
    """What a registry and its parents find."""
    while registry is not None:
        yield from registry.module_dict
        yield from (f'mae_mm.{name}' for name in getattr(registry.children.get('mae_mm'), 'module_dict', ()))
        registry = registry.parent


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = [one for one in known if one.lower() == name.lower()] or difflib.get_close_matches(name, known, 1)
    return f'; did you mean {near[0]!r}?' if near else ''


def _dicts(value: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict inside another, and its key."""
    if isinstance(value, dict) and path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from _dicts(inner, f'{path}.{key}' if path else str(key))
