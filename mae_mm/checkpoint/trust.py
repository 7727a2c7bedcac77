"""What a file may make its reader believe: tensors must be plain finite weights, settings must have possible values."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = torch.finfo(torch.float32).max  # models are float32


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 16


SETTINGS: dict[str, Callable[[object], bool]] = dict(  # of `Checkpoint`: which values each may have
    grid=lambda value: isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_count, value)),
    num_heads=_is_count,
    decoder_num_heads=_is_count,
    mask_ratio=lambda value: isinstance(value, Real) and 0 <= value < 1,
    norm_pix_loss=lambda value: isinstance(value, bool))


@contextmanager
def contents_of(path: str | Path, failed: str = 'was not loaded') -> Iterator[None]:
    """Turn every error inside into a ValueError with the file's name: invented contents fail in any way.

    Raises:
        ValueError: for any error inside.
    """
    try:
        yield
    except Exception as error:
        reason = f'{error}' if isinstance(error, ValueError) else (
            f'its contents are not valid ({type(error).__name__}: {error})')
        raise ValueError(reason if reason.startswith(str(path)) else f'{path} {failed}: {reason}') from error


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not a plain tensor of finite floats with memory of its own.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if fault := _fault(tensor):
            raise ValueError(f'{name} is not a valid weight: {fault}')


def _fault(tensor: Tensor) -> str:
    """What is wrong with a tensor, '' for nothing; its values are read last, as some kinds cannot be read at all."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f'a {type(tensor).__name__}'
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f'{"quantized" if tensor.is_quantized else tensor.layout}, not a dense tensor'
    if tensor.device.type != 'cpu':
        return f'without values (on {tensor.device})'
    if tensor.dtype not in FLOATS:
        return f'of {tensor.dtype}, not a float of 16 bits or more'
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        return f'{tuple(tensor.shape)} repeats {stored:,} bytes; save it with .contiguous()'
    if tensor.numel():
        low, high = torch.aminmax(tensor.detach())  # NaN if any value is
        if not (low >= -LARGEST and high <= LARGEST):
            return f'it has values that are not finite ({low:g} … {high:g})'
    return ''


def check_settings(settings: object) -> dict:
    """The settings of a file that are known.

    Raises:
        ValueError: for one with an impossible value.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f'its settings are {type(settings).__name__}, not a dict')
    known = {name: settings[name] for name in SETTINGS if name in settings}
    for name, value in known.items():
        if not SETTINGS[name](value):
            raise ValueError(f'its settings have {name}={str(value)[:80]}')
    return known
