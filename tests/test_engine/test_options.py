"""KEY=VALUE on the command line."""

import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError

import pytest

from mae_mm.engine.options import KeyValues, positive


def parse(*options: str) -> dict:
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


def test_values_are_numbers_lists_and_strings_with_their_spaces() -> None:
    assert parse('a=1', 'b=[1, x]', 'c=(1, 2)', 'd=my photos', 'e="a b (c)"', 'f=x=y', 'g= 0.5 ') == dict(
        a=1, b=[1, 'x'], c=(1, 2), d='my photos', e='a b (c)', f='x=y', g=0.5)


@pytest.mark.parametrize('option', ['train_cfg.max_epochs', '=3', 'a=[1,2'])
def test_what_is_not_key_value_is_named(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        parse('b=1', option)
    assert option.split('=[')[0] in capsys.readouterr().err.splitlines()[-1]


def test_torch_is_not_imported() -> None:
    code = 'import sys, mae_mm.engine.options; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize('text', ['0', '-3', '1.5', 'x', ''])
def test_positive_numbers(text: str) -> None:
    assert positive('12') == 12
    with pytest.raises(ArgumentTypeError, match=f'above 0, got {text}'):
        positive(text)
