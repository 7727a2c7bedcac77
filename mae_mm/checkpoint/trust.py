"""What a file may make its reader believe: tensors must be plain finite weights, settings must have possible values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = torch.finfo(torch.float32).max  # models are float32


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 16


def _is_colour(value: object) -> bool:
    return isinstance(value, tuple | list) and value != [] and all(isinstance(x, Real) and abs(x) < 1e6 for x in value)


def _is_reading(value: object) -> bool:
    """Options of transforms, whose values the transforms check."""
    def is_plain(value: object) -> bool:
        return value is None or isinstance(value, str | Real)

    return isinstance(value, Mapping) and len(value) < 8 and all(
        isinstance(key, str) and (is_plain(one) or (isinstance(one, tuple | list) and all(map(is_plain, one))))
        for key, one in value.items())


def _are_names(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and all(isinstance(x, str) for x in value)


SETTINGS = dict(  # of `Checkpoint`: which values each may have
    grid=lambda value: isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_count, value)),
    num_heads=_is_count,
    window_size=_is_count,
    decoder_num_heads=_is_count,
    mask_ratio=lambda value: isinstance(value, Real) and 0 <= value < 1,
    norm_pix_loss=lambda value: isinstance(value, bool),
    classes=_are_names,
    stems_from=_are_names,
    resize=_is_count,
    bands=_are_names,
    mean=_is_colour,
    clip=lambda value: isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_colour, value)),
    per_image=lambda value: isinstance(value, bool),
    std=lambda value: _is_colour(value) and min(value) > 0,
    reading=_is_reading)


@contextmanager
def contents_of(path: str | Path, failed: str = 'was not loaded') -> Iterator[None]:
    """Turn every error inside into a ValueError with the file's name: invented contents fail in any way."""
    try:
        yield
    except Exception as error:
        reason = f'{error}' if isinstance(error, ValueError) else (
            f'its contents are not valid ({type(error).__name__}: {error})')
        raise ValueError(reason if reason.startswith(str(path)) else f'{path} {failed}: {reason}') from error


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not a plain tensor of finite floats with memory of its own; the ValueError names it."""
    for name, tensor in tensors.items():
        if not (  # values are read last: some kinds of tensors have none
                type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and tensor.dtype in FLOATS
                and tensor.device.type == 'cpu'):
            raise ValueError(
                f'{name} is not a valid weight: it must be a dense tensor of floats of 16 bits or more, got a '
                f'{type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, on {tensor.device}')
        if tensor.numel() * tensor.element_size() > (stored := tensor.untyped_storage().nbytes()):
            raise ValueError(
                f'{name} is not a valid weight: {tuple(tensor.shape)} repeats {stored:,} bytes; save it with '
                '.contiguous()')
        low, high = torch.aminmax(tensor.detach()) if tensor.numel() else (0, 0)  # NaN if any value is
        if not (low >= -LARGEST and high <= LARGEST):
            raise ValueError(f'{name} is not a valid weight: it has values that are not finite ({low:g} … {high:g})')


def check_settings(settings: object) -> dict:
    """The settings of a file that are known; a ValueError for an impossible value."""
    if not isinstance(settings, Mapping):
        raise ValueError(f'its settings are {type(settings).__name__}, not a dict')
    known = {name: settings[name] for name in SETTINGS if name in settings}
    for name, value in known.items():
        if not SETTINGS[name](value):
            raise ValueError(f'its settings have {name}={str(value)[:80]}, which is not a valid {name}')
    return known
