"""Values of a config against what the parts they are for take, before anything is built."""

import difflib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS, Registry

from mae_mm import registry

OURS = (
    registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.HOOKS, registry.METRICS, registry.OPTIMIZERS,
    registry.OPTIM_WRAPPERS, registry.LOOPS, registry.STRATEGIES)
BUILDER_KEYS = {'type', '_scope_', 'constructor', 'paramwise_cfg', 'priority', 'init_cfg', 'convert_to_iter_based'}
NUMBERS = {  # key of the config: type, least value, and what is right
    'train_dataloader.batch_size': (int, 1, 'images for each process, e.g. 64'),
    'train_dataloader.num_workers': (int, 0, 'processes, e.g. 8; 0 loads in the training process'),
    'val_dataloader.batch_size': (int, 1, 'images for each process, e.g. 64'),
    'val_dataloader.num_workers': (int, 0, 'processes, e.g. 4; 0 loads in the training process'),
    'train_cfg.max_epochs': (int, 1, 'epochs, e.g. 800'),
    'train_cfg.max_iters': (int, 1, 'iterations, e.g. 160000'),
    'train_cfg.val_interval': (int, 1, 'epochs or iterations between two validations'),
    'optim_wrapper.optimizer.lr': (float, 0, 'a number, e.g. 0.00015'),
    'optim_wrapper.optimizer.weight_decay': (float, 0, 'a number, e.g. 0.05'),
    'optim_wrapper.accumulative_counts': (int, 1, 'batches for each step, e.g. 1'),
    'auto_scale_lr.base_batch_size': (float, 1, 'the batch that lr is meant for, e.g. 4096'),
    'model.mask_ratio': (float, 0, 'the fraction of patches hidden, in [0, 1), e.g. 0.75'),
    'randomness.seed': (int, 0, 'a whole number, e.g. 0'),
}


def check_values(cfg: Config) -> None:
    """Refuse arguments that a part does not have, and values of a type or size that it does not take.

    Checked are the numbers of `NUMBERS`, and every `type='mae_mm.X'`, optimizer and schedule by their signatures.

    Raises:
        ValueError: naming the key, the value, and what would be right.
    """
    for key, (kind, least, right) in NUMBERS.items():
        value = _at(cfg, key)
        if value is not None and not (fits(value, kind) and least <= value < math.inf):
            raise ValueError(f'{key}={value!r}: want {right}')
    ratio = _at(cfg, 'model.mask_ratio')
    if ratio is not None and not ratio < 1:
        percent = f'; for {ratio:g} % write {ratio / 100:g}' if ratio <= 100 else ''
        raise ValueError(f'model.mask_ratio={ratio!r}: want the fraction of patches hidden, in [0, 1){percent}')
    for path, part in _parts(cfg._cfg_dict.to_dict()):
        target = _class_of(path, part['type'])
        if target is not None:
            check_arguments(path, part, target)


def check_arguments(path: str, part: dict, target: Callable) -> None:
    """Compare a part of a config with the signature of what it builds.

    Raises:
        ValueError: as `check_values`.
    """
    name = getattr(target, '__name__', str(target))
    try:
        signature = inspect.signature(target)
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (TypeError, ValueError, NameError):  # built in, or annotated with names that are not there
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key, value in part.items():
        if key in BUILDER_KEYS and key not in signature.parameters:
            continue
        if key not in signature.parameters:
            if takes_any:
                continue
            known = [one for one in signature.parameters if one != 'self']
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f'{path}.{key}: {name} has no such argument'
                + (f'; did you mean {near[0]!r}?' if near else f'; it takes {", ".join(known)}'))
        if key in hints and not fits(value, hints[key]):
            raise ValueError(f'{path}.{key}={value!r}: {name} wants {readable(hints[key])}')


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config may be given for an annotation; annotations that say little let everything pass."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint is dict or origin is dict:
        return isinstance(value, dict)
    if origin is tuple and Ellipsis not in inside:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(fits, value, inside))
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value)
    return True


def readable(hint: Any) -> str:
    """An annotation in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ' or '.join(map(readable, typing.get_args(hint)))
    words = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'True or False', type(None): 'None'}
    return words.get(hint) or str(hint).replace('collections.abc.', '').replace('typing.', '')


def _parts(value: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict with a type, and its key."""
    if isinstance(value, dict):
        if isinstance(value.get('type'), str):
            yield path, value
        for key, inner in value.items():
            yield from _parts(inner, f'{path}.{key}' if path else str(key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _parts(inner, f'{path}.{i}')


def _class_of(path: str, name: str) -> Callable | None:
    """What a type stands for, where it is ours, an optimizer or a schedule.

    Raises:
        ValueError: if nothing of ours has that name.
    """
    if name.startswith('mae_mm.'):
        for one in OURS:
            found = _get(one, name.removeprefix('mae_mm.'))
            if found is not None:
                return found
        if path.rpartition('.')[2] in ('init_cfg', 'constructor', 'worker_init_fn'):
            return None
        known = [key for one in OURS for key in one.module_dict]
        near = difflib.get_close_matches(name.removeprefix('mae_mm.'), known, n=1)
        raise ValueError(f'{path}.type={name!r} does not exist' + (f'; did you mean mae_mm.{near[0]}?' if near else ''))
    if path.endswith('optimizer'):
        return _get(OPTIMIZERS, name)
    return _get(PARAM_SCHEDULERS, name) if path.startswith('param_scheduler') else None


def _get(where: Registry, name: str) -> Callable | None:
    where.import_from_location()
    return where.module_dict.get(name)


def _at(cfg: Config, key: str) -> Any:
    value = cfg
    for part in key.split('.'):
        value = value.get(part) if isinstance(value, dict | Config) else None
    return value
