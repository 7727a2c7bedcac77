"""The structure that docs/architecture.md states: short modules, and imports that point downwards only."""

import ast
from graphlib import CycleError, TopologicalSorter

from helpers import ROOT

ROOMS = ['transfer', 'visualization', 'evaluation', 'engine', 'mmpretrain_index', 'checkpoint', 'models', 'datasets',
         'registry', 'stopping', 'paths']
LEAVES = ['benchmark', 'demo_data', 'doctor', '__main__']  # only benchmark imports another of them
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in (ROOT / 'mae_mm').rglob('*.py') if '.mim' not in path.parts}


def imports(name: str) -> set[str]:
    """The modules of mae_mm that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{name} line {node.lineno}: relative import'
            full = {alias.name: f'{node.module}.{alias.name}' for alias in node.names}
            found |= {path if path in MODULES else node.module for path in full.values()}
    return {one for one in found if one in MODULES and one != name}


IMPORTS = {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    return name.split('.')[1] if '.' in name else ''


def test_no_module_has_more_than_350_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert len(lengths) > 50 and not {name: length for name, length in lengths.items() if length > 350}


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        raise AssertionError(' -> '.join(error.args[1])) from None


def test_rooms_import_only_from_rooms_below() -> None:
    assert {room(name) for name in MODULES} == {*ROOMS, *LEAVES, ''}
    faults = []
    for name, imported in IMPORTS.items():
        for other in imported:
            here, there = room(name), room(other)
            upwards = here in ROOMS and there in ROOMS and ROOMS.index(there) < ROOMS.index(here)
            if upwards or (there in LEAVES and here not in (there, 'benchmark')):
                faults.append(f'{name} imports {other}')
    assert not faults
