"""`mae-mm TOOL …`, or `python -m mae_mm TOOL …`: the tools of tools/, also where only the wheel is installed."""

import ast
import difflib
import os
import shutil
import sys

from mae_mm.paths import ROOT, find_tools


def main() -> None:
    tools, args = find_tools(), sys.argv[1:]
    if not args or args[0] in ('-h', '--help'):
        print('usage: mae-mm TOOL …      (mae-mm TOOL --help describes one; in a checkout: tools/TOOL.py)\n'
              'Configs are found from any folder: mae-mm train configs/demo/mae_pretrain.py\n\n'
              f'tools, in {ROOT}:')
        for name, path in tools.items():
            print(f'  {name:20}{describe(path.read_text())}')
        return
    if args[0] not in tools:
        near = [f'did you mean {name!r}? ' for name in difflib.get_close_matches(args[0], tools, 1)]
        sys.exit(f'error: no tool {args[0]!r}; {"".join(near)}mae-mm lists them')
    path = str(tools[args[0]])
    program = sys.executable if path.endswith('.py') else shutil.which('bash')
    os.execv(program, [program, path, *args[1:]])  # the same process: signals and exit codes are the tool's


def describe(source: str) -> str:
    """The first line of a tool's docstring, or of a script's comment."""
    if source.startswith('#!'):
        return source.splitlines()[1].removeprefix('# ')
    return (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0]


if __name__ == '__main__':
    main()
