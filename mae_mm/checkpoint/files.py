"""Checkpoint files: only tensors and plain data are ever unpickled."""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mae_mm.checkpoint.hub import PARTIAL, digest, locate
from mae_mm.checkpoint.trust import contents_of

CONFIGS = ('config.json', 'preprocessor_config.json')  # beside the weights: of the model, of its pixels
# Keys under which projects keep their weights; the first one found is taken. The last two are DINO's.
WRAPPERS = (
    'state_dict', 'model', 'model_state_dict', 'state_dict_ema', 'model_ema', 'ema_state_dict', 'teacher', 'student')


def _statistic(owner: type, name: str) -> object:
    """`getattr` as far as mmengine's checkpoints need it: the default statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({getattr(owner, "__name__", owner)},{name})')
    return getattr(owner, name)


def _numpy_objects() -> list:
    """The names under which numpy 1 (numpy.core) and 2 (numpy._core) pickle numbers and arrays."""
    array, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ('float64', 'float32', 'int64')]
    both = [(f, f'numpy.{core}.multiarray.{f.__name__}') for f in (array, scalar) for core in ('core', '_core')]
    return [np.ndarray, np.dtype, *dtypes, *both]


# Everything that mmengine's Runner writes besides tensors and plain data.
MMENGINE_OBJECTS = (HistoryBuffer, (_statistic, 'builtins.getattr'), *_numpy_objects())
# MAE's release, DINO and timm store their command line, a namespace of plain values, with the weights.
READABLE_OBJECTS = (*MMENGINE_OBJECTS, argparse.Namespace)


def allow_mmengine_objects() -> None:
    """Let mmengine itself (`--resume`, `load_from`, inferencers) read its files in this process."""
    torch.serialization.add_safe_globals(list(MMENGINE_OBJECTS))


def read_content(path: str | Path) -> tuple[Mapping, dict]:
    """Read a torch or safetensors file (its bytes decide which, not its name), a folder of transformers or a URL.

    Returns the contents, on the CPU, and what `CONFIGS` of transformers or timm in the same folder say ({} without).
    """
    local = locate(path)
    files, content = _weight_files(local.path), {}
    for file in files:
        content.update(_read_file(file))
    if local.origin:
        meta = content.get('meta')
        content['meta'] = {**(meta if isinstance(meta, Mapping) else {}), 'origin': local.origin}
    config = {}
    for path in (files[0].parent / name for name in CONFIGS):
        with contents_of(path):
            config = {**config, **(json.loads(path.read_bytes()) if path.is_file() else {})}
    return content, config


def content_hash(path: str | Path) -> str:
    """SHA-256 of the weights that `read_content` reads."""
    return digest(_weight_files(locate(path).path), 'sha256')


def _weight_files(path: Path) -> list[Path]:
    """The file at a path, or the files with weights in a folder."""
    if path.is_file():
        return [path]
    files = sorted(path.glob('model*.safetensors')) or sorted(path.glob('pytorch_model*.bin'))
    if not files:
        raise FileNotFoundError(
            f'no checkpoint at {path.absolute()}; give a file, or a folder with model*.safetensors or '
            'pytorch_model*.bin')
    return files


def write_content(content: Mapping, path: str | Path) -> None:
    """Write a checkpoint, as safetensors if the name ends so; an interrupted write leaves no file with that name."""
    if Path(path).suffix == '.safetensors':  # its save_file would let nobody but the owner read
        data = safetensors.torch.save(dict(content), metadata={'format': 'pt'})
        write_beside(path, lambda partial: partial.write_bytes(data))
    else:
        write_beside(path, lambda partial: torch.save(content, partial))


def write_beside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, and rename it to `path` once it is complete on the disk.

    At any moment `path` is the old file or the new one. A killed process leaves a file that ends with `.partial`; the
    next write overwrites it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        write(partial)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)  # the new name
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_file(path: Path) -> Mapping:
    with open(path, 'rb') as file:
        head = file.read(9)
    try:
        content = safetensors.torch.load_file(path) if head[8:] == b'{' else load_torch(path)
    except Exception as error:  # readers of damaged bytes fail in any way
        if reason := refusal(path, error):
            raise ValueError(reason) from None
        raise ValueError(
            f'{path} is not a checkpoint, or truncated: neither a torch file nor safetensors '
            f'({path.stat().st_size:,} bytes that start with {head!r}); copy or download it again') from error
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a dict of tensors')
    return content


def refusal(path: str | Path, error: Exception) -> str | None:
    """In place of torch's message, which recommends to unpickle refused objects all the same; None for other errors."""
    refused = re.search(r'GLOBAL (\S+)|but got <class \'(\S+)\'>', str(error))
    if not refused or not isinstance(error, pickle.UnpicklingError):
        return None
    return (
        f'{path} was not loaded: it holds {refused[1] or refused[2]}, which is neither a tensor nor plain data and '
        'could run code. Ask its author for a file with only the weights, e.g. safetensors')


def load_torch(path: str | Path, **options) -> object:
    """`torch.load` on the CPU of tensors, plain data and `READABLE_OBJECTS`."""
    # When it ends, the context manager removes its objects from the process-wide list, even those that were there.
    allowed = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([obj for obj in READABLE_OBJECTS if obj not in allowed]):
        return torch.load(path, map_location='cpu', weights_only=True, **options)


def unwrap(content: Mapping) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a checkpoint under their names in the model, and the key that holds them.

    That key is one of `WRAPPERS` or, if the top level has no tensors, the key of the only dict of tensors. Prefixes of
    DistributedDataParallel, weight averaging and torch.compile are removed.
    """
    def has_tensors(values: Mapping) -> bool:
        return any(isinstance(value, Tensor) for value in values.values())

    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    if wrapper is None and not has_tensors(content):
        holders = [key for key, value in content.items() if isinstance(value, Mapping) and has_tensors(value)]
        wrapper = holders[0] if len(holders) == 1 else None
    return {
        re.sub(r'^(module\.)+', '', key.replace('_orig_mod.', '')): value
        for key, value in (content[wrapper] if wrapper else content).items()
        if isinstance(key, str) and isinstance(value, Tensor)}, wrapper
