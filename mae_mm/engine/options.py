"""Types of command-line options; imports no torch, so that `--help` is fast."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence

from mmengine.config import DictAction


class KeyValues(DictAction):
    """mmengine's action for argparse; keeps the spaces of plain strings and reports what is not KEY=VALUE."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Sequence[str], option_string: str | None = None,
    ) -> None:
        for pair in values:
            key, equals, value = (part.strip() for part in pair.partition('='))
            if not (key and equals):
                parser.error(f'{option_string}: {pair!r} is not KEY=VALUE')
            try:
                super().__call__(parser, namespace, [f'{key}={value}'], option_string)
            except AssertionError as error:
                parser.error(f'{option_string} {key}: {error}')
            if ' ' in value and ',' not in value and value[0] not in '[(':
                getattr(namespace, self.dest)[key] = value.strip('\'"')


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'must be a whole number above 0, got {text}')
    return int(text)


def band(text: str) -> int | str:
    """The number or the name of a band."""
    return int(text) if text.isdecimal() else text
