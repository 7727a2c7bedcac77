"""Checkpoint files: only tensors and plain data are ever unpickled."""

import argparse
import hashlib
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

from mae_mm.checkpoint.trust import contents_of

PARTIAL = '.partial'  # ends the names of unfinished files
# Keys under which libraries keep their weights, the first one found is taken.
WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'state_dict_ema', 'model_ema', 'ema_state_dict')
STATISTICS = ('min', 'max', 'mean', 'current')


def _statistic(owner: type, name: str) -> object:
    """`getattr` as far as mmengine's checkpoints need it: the default statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({getattr(owner, "__name__", owner)},{name})')
    return getattr(owner, name)


def _numpy_objects() -> list:
    """What numpy numbers and arrays are pickled as, by numpy 1 (numpy.core) and 2 (numpy._core)."""
    array, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ('float64', 'float32', 'int64')]
    both = [(f, f'numpy.{core}.multiarray.{f.__name__}') for f in (array, scalar) for core in ('core', '_core')]
    return [np.ndarray, np.dtype, *dtypes, *both]


# All that mmengine's Runner writes beside tensors and plain data.
MMENGINE_OBJECTS = (HistoryBuffer, (_statistic, 'builtins.getattr'), *_numpy_objects())
# MAE's release and timm store their command line, a bag of plain values, beside the weights.
READABLE_OBJECTS = (*MMENGINE_OBJECTS, argparse.Namespace)


def allow_mmengine_objects() -> None:
    """Let `torch.load` in this process resume what mmengine's Runner wrote, with weights_only on.

    For entry points that hand a path to mmengine itself (`--resume`, `load_from`, inferencers).
    """
    torch.serialization.add_safe_globals(list(MMENGINE_OBJECTS))


def read_content(path: str | Path) -> tuple[Mapping, dict]:
    """Content of a checkpoint file, or of a folder of transformers, told by its bytes and not by its name.

    Args:
        path: a torch or safetensors file; a folder with `model*.safetensors` or `pytorch_model*.bin`; http(s):// of a
            file, kept in torch.hub's cache.

    Returns:
        What the file holds, on the CPU, and the `config.json` of transformers beside it ({} where there is none).

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if the file is damaged, no checkpoint, or holds objects other than tensors and plain data.
    """
    files = weight_files(path)
    contents = [_read_file(file) for file in files]
    content = contents[0] if len(contents) == 1 else {key: value for part in contents for key, value in part.items()}
    config = files[0].parent / 'config.json'
    with contents_of(config):
        return content, json.loads(config.read_bytes()) if config.is_file() else {}


def weight_files(path: str | Path) -> list[Path]:
    """The file at a path or URL, or the files with weights in a folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    if str(path).startswith(('http://', 'https://')):
        return [_download(str(path))]
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f'no checkpoint at {path.absolute()}')
    files = sorted(path.glob('model*.safetensors')) or sorted(path.glob('pytorch_model*.bin'))
    if not files:
        raise FileNotFoundError(
            f'{path.absolute()} is a folder without model*.safetensors or pytorch_model*.bin; give the checkpoint file')
    return files


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_content(content: Mapping, path: str | Path) -> None:
    """Write a checkpoint, as safetensors where the name ends so. A broken-off write leaves no file behind."""
    def write(partial: Path) -> None:
        if Path(path).suffix == '.safetensors':
            partial.touch()
            mode = partial.stat().st_mode
            safetensors.torch.save_file(dict(content), partial, metadata={'format': 'pt'})
            partial.chmod(mode)  # safetensors lets nobody but the owner read
        else:
            torch.save(content, partial)

    write_beside(path, write)


def write_beside(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, and give it that name once it lies on the disk, complete.

    Whatever happens meanwhile, `path` is the old file or the new one. What a killed process left unfinished has a name
    that ends with `.partial`, and is written over the next time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        write(partial)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)  # the new name
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _download(url: str) -> Path:
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.split("?")[0].rsplit("/", 1)[-1]}'
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))  # renames a complete file, so ranks may do it at once
    return path


def _read_file(path: Path) -> Mapping:
    with open(path, 'rb') as file:
        head = file.read(9)
    try:
        content = safetensors.torch.load_file(path) if head[8:] == b'{' else _load_torch(path)
    except Exception as error:  # damaged bytes make every reader fail in its own way
        if reason := refusal(path, error):
            raise ValueError(reason) from None
        raise ValueError(
            f'{path} is no checkpoint, or truncated: it is neither a torch file nor safetensors (it has '
            f'{path.stat().st_size:,} bytes and starts with {head!r}); copy or download it again') from error
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a dict of tensors')
    return content


def refusal(path: str | Path, error: Exception) -> str | None:
    """What to say of a file with objects that are not unpickled; None if the error says something else.

    Torch's own message advises to unpickle them all the same.
    """
    refused = re.search(r'GLOBAL (\S+)|but got <class \'(\S+)\'>', str(error))
    if not refused or not isinstance(error, pickle.UnpicklingError):
        return None
    return (
        f'{path} was not loaded: it holds {refused[1] or refused[2]}, which is neither a tensor nor plain data and '
        'could run code. Ask for a file with the weights alone, e.g. safetensors')


def _load_torch(path: Path) -> object:
    # The context manager takes its objects from the process-wide list when it ends, also those that were there before.
    allowed = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([obj for obj in READABLE_OBJECTS if obj not in allowed]):
        return torch.load(path, map_location='cpu', weights_only=True)


def unwrap(content: Mapping) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a checkpoint under their names in the model; epochs, optimizer states and the like are left out.

    Marks of DistributedDataParallel, weight averaging and torch.compile are taken off the names.

    Returns:
        The tensors, and the key of `WRAPPERS` under which they were found.
    """
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    return {
        re.sub(r'^(module\.)+', '', key.replace('_orig_mod.', '')): value
        for key, value in (content[wrapper] if wrapper else content).items()
        if isinstance(key, str) and isinstance(value, Tensor)}, wrapper
