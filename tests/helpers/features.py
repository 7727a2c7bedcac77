"""What the tests of features on the disk share."""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from helpers.images import photo
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.vit import ViT


def encoder_of(vit: ViT) -> Encoder:
    return Encoder(vit.eval(), ImagePreprocessor(), (32, 32))


def write_photos(folder: Path, num: int, first: int = 0) -> list[Path]:
    """`num` different PNG files of 40x44 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f'{i:03d}.png' for i in range(first, first + num)]
    for i, file in enumerate(files, first):
        Image.fromarray(photo(40, 44, seed=i)).save(file)
    return files


def read_features(out: Path) -> np.ndarray:
    """As its users read it, not as we do."""
    if out.suffix == '.npy':
        return np.load(out, mmap_mode='r')
    if out.suffix == '.safetensors':
        from safetensors.torch import load_file
        return load_file(out)['features'].numpy()
    from pyarrow.parquet import read_table
    return np.array(read_table(out)['features'].to_pylist(), np.float32)


def read_names(out: Path) -> list[str]:
    if out.suffix == '.parquet':
        from pyarrow.parquet import read_table
        return read_table(out)['name'].to_pylist()
    return Path(f'{out}.names.txt').read_text().splitlines()


def exit_code(call: object) -> int:
    """Of a forked process that makes a call; negative: the signal that killed it."""
    torch.set_num_threads(1)  # threads do not survive a fork
    process = get_context('fork').Process(target=call)
    process.start()
    process.join(120)
    return process.exitcode
