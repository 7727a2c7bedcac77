"""Which changes of a config a resumed run leaves aside, for its checkpoint restores optimizer and schedules."""

import ast
from collections.abc import Iterator

RESTORED = (
    'optim_wrapper.optimizer.', 'optim_wrapper.paramwise_cfg.', 'param_scheduler', 'auto_scale_lr.',
    'train_cfg.max_epochs', 'train_cfg.max_iters')


def changes_without_effect(saved: str, present: str) -> list[str]:
    """Compare two configs as mmengine prints them; they are parsed, not run.

    Returns:
        A line 'key: before -> now' for each setting that the checkpoint decides: of the optimizer, of its schedules,
        and the length of the run as far as schedules follow it.
    """
    before, now = read_settings(saved), read_settings(present)
    return [
        f'{key}: {before.get(key, "not set")} -> {now.get(key, "not set")}' for key in sorted(before | now)
        if key.startswith(RESTORED) and before.get(key) != now.get(key)]


def read_settings(text: str) -> dict[str, str]:
    """Keys and values, as text, of a config; {} of what is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {key: value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            for key, value in _flatten(node.targets[0].id, node.value)}


def _flatten(key: str, node: ast.expr) -> Iterator[tuple[str, str]]:
    """A value's parts: `dict(…)`, `{…}`, lists and tuples are taken apart, all else is text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        parts = [(one.arg, one.value) for one in node.keywords if one.arg]
    elif isinstance(node, ast.Dict):
        parts = [(one.value, value) for one, value in zip(node.keys, node.values, strict=True)
                 if isinstance(one, ast.Constant)]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = list(enumerate(node.elts))
    else:
        yield key, ast.unparse(node)
        return
    for name, value in parts:
        yield from _flatten(f'{key}.{name}', value)
