"""Values of a config against what the parts they are for take, before anything is built."""

import difflib
import importlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from mae_mm.engine.signatures import arguments, fits, readable

# Keys of a config, without the numbers in them, and the registries in which their types stand.
PLACES = [(re.compile(pattern), kinds.split()) for pattern, kinds in (
    (r'\w+_dataloader\.(batch_)?sampler', 'DATA_SAMPLERS'),
    (r'\w+_dataloader\.(collate_fn|worker_init_fn)', 'FUNCTIONS'),
    (r'\w+_dataloader\.dataset(\.datasets?)*', 'DATASETS'),
    (r'\w+_dataloader\.dataset(\.datasets?)*\.pipeline(\.transforms)*', 'TRANSFORMS'),
    (r'\w+_evaluator', 'METRICS EVALUATOR'),
    (r'default_hooks\.\w+|custom_hooks', 'HOOKS'),
    (r'optim_wrapper', 'OPTIM_WRAPPERS'),
    (r'optim_wrapper\.optimizer', 'OPTIMIZERS'),
    (r'param_scheduler', 'PARAM_SCHEDULERS'),
    (r'(train|val|test)_cfg', 'LOOPS'),
    (r'visualizer', 'VISUALIZERS'),
    (r'visualizer\.vis_backends', 'VISBACKENDS'),
    (r'log_processor', 'LOG_PROCESSORS'),
    (r'model_wrapper_cfg', 'MODEL_WRAPPERS'),
    (r'strategy', 'STRATEGIES'),
    (r'model(\.\w+)*', 'MODELS TASK_UTILS WEIGHT_INITIALIZERS BATCH_AUGMENTS'))]
DEFAULTS = dict(  # types that mmengine supplies
    optim_wrapper='OptimWrapper', val_cfg='ValLoop', test_cfg='TestLoop', log_processor='LogProcessor')
# Dicts without a type, and what reads them: a function, or a list of names.
FIXED = [(re.compile(pattern), reader) for pattern, reader in (
    (r'\w+_dataloader', DataLoader),
    (r'randomness', Runner.set_randomness),
    (r'env_cfg', ['cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit']),
    (r'env_cfg\.mp_cfg', set_multi_processing),
    (r'auto_scale_lr', ['base_batch_size', 'enable']),
    (r'optim_wrapper\.clip_grad',
     ['max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value', 'type']))]
SECTIONS = (
    'model', 'env_cfg', 'default_hooks', 'randomness', 'auto_scale_lr', 'optim_wrapper', 'optim_wrapper.optimizer',
    'visualizer', 'log_processor', *(f'{part}_{name}' for part in ('train', 'val', 'test') for name in (
        'cfg', 'dataloader', 'dataloader.dataset', 'dataloader.sampler', 'dataloader.collate_fn')))
BUILDER_KEYS = {  # taken out before a constructor is called
    'type', '_scope_', 'constructor', 'paramwise_cfg', 'priority', 'init_cfg', 'convert_to_iter_based', 'by_epoch',
    'num_batch_per_epoch', 'disable_subprocess_warning'}
TYPED = ('mae_mm', 'mmengine', 'torch')  # packages whose annotations are true
NUMBERS = {  # key of the config: type, least value, and what is right
    'train_dataloader.batch_size': (int, 1, 'images for each process, e.g. 64'),
    'train_dataloader.num_workers': (int, 0, 'processes, e.g. 8; 0 loads in the training process'),
    'val_dataloader.batch_size': (int, 1, 'images for each process, e.g. 64'),
    'val_dataloader.num_workers': (int, 0, 'processes, e.g. 4; 0 loads in the training process'),
    'train_cfg.max_epochs': (int, 1, 'epochs, e.g. 800'),
    'train_cfg.max_iters': (int, 1, 'iterations, e.g. 160000'),
    'train_cfg.val_interval': (int, 1, 'epochs or iterations between two validations'),
    'optim_wrapper.optimizer.lr': (float, 0, 'a number of 0 or more, e.g. 0.00015'),
    'optim_wrapper.optimizer.weight_decay': (float, 0, 'a number of 0 or more, e.g. 0.05'),
    'optim_wrapper.accumulative_counts': (int, 1, 'batches for each step, e.g. 1'),
    'auto_scale_lr.base_batch_size': (float, 1, 'the batch that lr is meant for, e.g. 4096'),
    'model.mask_ratio': (float, 0, 'the fraction of patches hidden, in [0, 1), e.g. 0.75'),
    'randomness.seed': (int, 0, 'a whole number of 0 or more, e.g. 0'),
}


def check_sections(cfg: Config) -> None:
    """Refuse a value where a dict with keys belongs.

    Raises:
        ValueError: naming the key and the value.
    """
    for key in SECTIONS:
        value = _at(cfg, key)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f'{key}={value!r}: want dict(…), or None')
    parts = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    for key in ('custom_hooks', 'param_scheduler'):
        value = cfg.get(key) or []
        parts |= {f'{key}.{i}': one for i, one in enumerate(value)} if isinstance(value, list | tuple) else {key: value}
    for key, part in parts.items():
        if part is None and not key.startswith('default_hooks.'):
            raise ValueError(f'{key}=None: want dict(type=…); to leave it out, give the whole list')
        if part is not None and not isinstance(part, dict):
            raise ValueError(f'{key}={part!r}: want dict(type=…)')
        if part is not None and 'type' not in part and not all(isinstance(one, list) for one in part.values()):
            raise ValueError(f'{key}: no type{_nearest(key, [other for other, one in parts.items() if "type" in one])}')


def check_values(cfg: Config) -> None:
    """Refuse types that do not exist, arguments that a part does not have, and values that it does not take.

    Each dict with a type is compared with the constructor of the class that the registries of the config's scope have
    for it, as building would; dicts that mmengine reads itself with what it reads (`FIXED`). Arguments of which nothing
    is known for sure are left to whoever builds the part.

    Raises:
        ValueError: naming the key, the value, and what would be right.
    """
    check_sections(cfg)
    for key, (kind, least, right) in NUMBERS.items():
        value = _at(cfg, key)
        if value is not None and not (fits(value, kind) and least <= value < math.inf):
            raise ValueError(f'{key}={value!r}: want {right}')
    ratio = _at(cfg, 'model.mask_ratio')
    if ratio is not None and not ratio < 1:
        percent = f'; for {ratio:g} % write {ratio / 100:g}' if ratio <= 100 else ''
        raise ValueError(f'model.mask_ratio={ratio!r}: want the fraction of patches hidden, in [0, 1){percent}')
    for path, part, scope in _dicts(cfg._cfg_dict.to_dict(), cfg.get('default_scope')):
        place = re.sub(r'\.\d+', '', path)
        for pattern, reader in FIXED:
            if pattern.fullmatch(place):
                _check_names(path, part, place, reader)
        kinds = next((kinds for pattern, kinds in PLACES if pattern.fullmatch(place)), None)
        name = part.get('type', DEFAULTS.get(place))
        if kinds and isinstance(name, str):
            target = find(path, name, kinds, scope)
            # What is called …_cfg in a model is changed before it is built, by rules of its own.
            if target is not None and (name.startswith('mae_mm.') or not re.fullmatch(r'model\..*_cfg', place)):
                check_arguments(path, part, target)


def check_arguments(path: str, part: dict, target: Callable) -> None:
    """Compare a part of a config with what a class or function takes.

    Raises:
        ValueError: as `check_values`.
    """
    known, closed = arguments(target)
    if closed:
        _check_names(path, part, getattr(target, '__name__', str(target)), known)
    typed = target.__module__.partition('.')[0] in TYPED
    for key, value in part.items():
        hint = known.get(key) if typed else None
        if hint is not None and not fits(value, hint):
            raise ValueError(f'{path}.{key}={value!r}: {target.__name__} wants {readable(hint)}')


def find(path: str, name: str, kinds: list[str], scope: str | None) -> Callable | None:
    """What a type stands for; None where a host may know better: a name in a model that is like none of those known.

    Raises:
        ValueError: if there is nothing of that name.
    """
    registries = [one for kind in kinds if (one := _registry(kind, scope)) is not None]
    for registry in registries:
        try:
            found = registry.get(name)
        except (RuntimeError, ImportError):  # says that there is none
            continue
        if found is not None:
            return found
    known = {one for registry in registries for one in _names(registry)}
    known |= {f'mae_mm.{one}' for kind in kinds if (ours := _registry(kind, 'mae_mm')) for one in ours.module_dict}
    near = _nearest(name, known, 0.8 if path.startswith('model') else 0.6)
    if path.startswith('model') and not near and not name.startswith('mae_mm.'):
        return None
    raise ValueError(f'{path}.type={name!r} does not exist{near}')


def _registry(kind: str, scope: str | None) -> Registry | None:
    """The registry of a scope for a kind of part; that of mmengine where the scope has none."""
    for package in (scope, 'mmengine'):
        try:
            found = getattr(importlib.import_module(f'{package}.registry'), kind, None)
        except ImportError:  # the package is not there, as building will say
            continue
        if found is not None:
            return found
    return None


def _names(registry: Registry | None) -> Iterator[str]:
    while registry is not None:
        yield from registry.module_dict
        registry = registry.parent


def _check_names(path: str, part: dict, name: str, known: Callable | Iterable[str]) -> None:
    if callable(known):
        check_arguments(path, part, known)
        return
    for key in part:
        if key not in known and key not in BUILDER_KEYS:
            near = _nearest(key, known)
            raise ValueError(f'{path}.{key}: {name} has no such argument{near or "; it takes " + ", ".join(known)}')


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    known = list(known)
    near = [one for one in known if one.lower() == name.lower()] or difflib.get_close_matches(name, known, 1, cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''


def _dicts(value: Any, scope: str | None, path: str = '') -> Iterator[tuple[str, dict, str | None]]:
    """Every dict inside another, its key and its scope."""
    if isinstance(value, dict):
        scope = value.get('_scope_', scope)
        if path:
            yield path, value, scope
        for key, inner in value.items():
            yield from _dicts(inner, scope, f'{path}.{key}' if path else str(key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _dicts(inner, scope, f'{path}.{i}')


def _at(cfg: Config, key: str) -> Any:
    value = cfg
    for part in key.split('.'):
        value = value.get(part) if isinstance(value, dict | Config) else None
    return value
