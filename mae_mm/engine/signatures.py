"""What the constructors of parts take: names of arguments, up the classes that `**kwargs` go to, and their types."""

import ast
import inspect
import numbers
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.hooks import CheckpointHook

WORDS = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'True or False', type(None): 'None'}
BY_NAME = {kind.__name__: kind for kind in (int, float, str, bool)}


def arguments(target: Callable) -> tuple[dict[str, Any], bool]:
    """Names that a class or function takes, each with its annotation (None: none), and whether it takes no other.

    `**kwargs` are followed into the base class where a constructor does nothing with them but hand them on, or take
    names out of them.
    """
    known: dict[str, Any] = {}
    is_class = inspect.isclass(target)
    for owner in target.__mro__ if is_class else (target, ):
        function = vars(owner).get('__init__') if is_class else owner
        if function is None:
            continue
        if owner is object:
            return known, True
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # built in
            return known, False
        hints, rest = _hints(function), None
        for name, parameter in list(signature.parameters.items())[is_class:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                rest = name
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                hint = hints.get(name)
                known.setdefault(name, hint | None if _may_be_none(hint, parameter.default) else hint)
        if rest is None or owner is CheckpointHook:  # which keeps unknown names for its first save, and fails there
            return known, True
        taken = _taken_out(function, rest)
        if taken is None:
            return known, False
        known |= {name: None for name in taken if name not in known}
    return known, True


def _may_be_none(hint: Any, default: Any) -> bool:
    return default is None and isinstance(hint, type)


def _hints(function: Callable) -> dict[str, Any]:
    """Annotations; of those that name what is not there, the plain types."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # whatever an expression in text raises
        return {name: BY_NAME.get(hint) for name, hint in getattr(function, '__annotations__', {}).items()
                if isinstance(hint, str)}


def _taken_out(function: Callable, rest: str) -> list[str] | None:
    """Names that a constructor takes out of its `**rest`, the others going to `__init__` of a base; None otherwise."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    taken, handed_on = [], 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == '__init__':
            handed_on += sum(one.arg is None and _is(one.value, rest) for one in node.keywords)
        elif node.func.attr in ('get', 'pop', 'setdefault') and _is(node.func.value, rest):
            taken += [one.value for one in node.args[:1] if isinstance(one, ast.Constant)]
    return taken if handed_on and uses == handed_on + len(taken) else None


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config may be given for an annotation; annotations that say little let everything pass."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin is typing.Literal:
        return value in inside
    if hint is type(None):
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
    if origin is tuple and inside and Ellipsis not in inside:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(fits, value, inside))
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(fits(one, inside[0]) for one in value if inside)
    return True


def readable(hint: Any) -> str:
    """An annotation in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ' or '.join(map(readable, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return ' or '.join(map(repr, typing.get_args(hint)))
    return WORDS.get(hint) or str(hint).replace('collections.abc.', '').replace('typing.', '')
