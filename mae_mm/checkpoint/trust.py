"""What a file may make its reader believe: tensors that are what they seem, settings that can be meant."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = torch.finfo(torch.float32).max  # models are float32

MAX_SIDE, MAX_HEADS = 1 << 20, 1 << 16


def _count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _grid(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(_count(side, MAX_SIDE) for side in value)


SETTINGS: dict[str, Callable[[object], bool]] = dict(  # of `Checkpoint`: what each may be
    grid=_grid,
    num_heads=lambda value: _count(value, MAX_HEADS),
    decoder_num_heads=lambda value: _count(value, MAX_HEADS),
    mask_ratio=lambda value: isinstance(value, Real) and 0 <= value < 1,
    norm_pix_loss=lambda value: isinstance(value, bool))


@contextmanager
def contents_of(path: str | Path, failed: str = 'was not loaded') -> Iterator[None]:
    """Give errors the file's name: contents that were made up, or mutilated, fit no rule and fail in all ways.

    Raises:
        ValueError: for any error inside.
    """
    try:
        yield
    except Exception as error:
        reason = f'{error}' if isinstance(error, ValueError) else (
            f'its contents make no sense ({type(error).__name__}: {error})')
        raise ValueError(reason if reason.startswith(str(path)) else f'{path} {failed}: {reason}') from error


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Every weight is a plain tensor of finite floats with memory of its own; any shape.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, tensor in tensors.items():
        if fault := _structure(tensor) or _values(tensor):
            raise ValueError(f'{name} is no weight: {fault}')


def _structure(tensor: Tensor) -> str:
    """What is wrong with a tensor before any of its values is read."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f'a {type(tensor).__name__}'
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f'{"quantized" if tensor.is_quantized else tensor.layout}, not a dense tensor'
    if tensor.device.type != 'cpu':
        return f'without values (on {tensor.device})'
    if tensor.dtype not in FLOATS:
        return f'of {tensor.dtype}, not a float of 16 bits or more'
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f'{tuple(tensor.shape)} out of {tensor.untyped_storage().nbytes():,} bytes, repeated; save .contiguous()'
    return ''


def _values(tensor: Tensor) -> str:
    if not tensor.numel():
        return ''
    low, high = torch.aminmax(tensor.detach())  # NaN if any value is
    return '' if low >= -LARGEST and high <= LARGEST else f'it has values that are not finite ({low:g} … {high:g})'


def check_settings(settings: object) -> dict:
    """Settings as a file tells them, those that are known.

    Raises:
        ValueError: for one that cannot be meant.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f'its settings are {type(settings).__name__}, not a dict')
    known = {name: settings[name] for name in SETTINGS if name in settings}
    for name, value in known.items():
        if not SETTINGS[name](value):
            raise ValueError(f'its settings say {name}={str(value)[:80]}')
    return known
