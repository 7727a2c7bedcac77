"""Cached features: what they belong to, what is written, and what happens when something fails."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.images import encode, photo
from PIL import Image

from mae_mm.evaluation import features as module
from mae_mm.evaluation.encoder import Encoder
from mae_mm.evaluation.features import extract
from mae_mm.models.data_preprocessor import ImagePreprocessor


@pytest.fixture
def encoder(make_vit: Callable) -> Encoder:
    return Encoder(make_vit(arch=dict(embed_dim=32, depth=5, num_heads=2)), ImagePreprocessor(), (32, 32))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Five images of several sizes."""
    for i in range(5):
        (tmp_path / f'{i}.png').write_bytes(encode(Image.fromarray(photo(30 + i, 40, seed=i)), 'PNG'))
    return [str(tmp_path / f'{i}.png') for i in range(5)]


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def computed(encoder: Encoder, files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the features are computed anew."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(module, '_compute', lambda *args, compute=module._compute: (calls.append(1), compute(*args)))
        extract(encoder, files, cache)
    return bool(calls)


def test_features_are_the_encoders(encoder: Encoder, files: list[str], tmp_path: Path) -> None:
    found = extract(encoder, files, tmp_path / 'cache', batch_size=2)
    tokens = encoder.tokens(torch.stack([encoder.load(dict(img_path=file))['inputs'] for file in files]), 4).numpy()
    for array, expected in zip(found[:3], (tokens[:, :, 1:].mean(2), tokens[:, -1, 0], tokens[:, -1, 1:]), strict=True):
        assert array.dtype == np.float16 and isinstance(array, np.memmap)  # read as needed
        np.testing.assert_allclose(array, expected, atol=2e-3, rtol=2e-3)
    assert found.means.shape == (5, 4, 32) and found.patches.shape == (5, 16, 32) and not found.unreadable


def test_they_are_computed_once(encoder: Encoder, files: list[str], tmp_path: Path, make_vit, monkeypatch) -> None:
    """Anew for other weights, pixel statistics, sizes of images, files, or a file that has changed."""
    def again(encoder: Encoder = encoder, files: list[str] = files) -> bool:
        return computed(encoder, files, tmp_path / 'cache', monkeypatch)

    vit = encoder.backbone
    assert again() and not again()
    assert not again(Encoder(vit, ImagePreprocessor(), (32, 32)))  # the same in another object, as in another process
    assert again(Encoder(vit, ImagePreprocessor(mean=[1.0, 2.0, 3.0]), (32, 32)))
    assert again(Encoder(vit, ImagePreprocessor(), (40, 32)))
    assert again(files=files[:4]) and again(files=files[::-1])
    os.utime(files[0], ns=(0, 0))
    assert again()
    with torch.no_grad():
        vit.blocks[0].mlp.fc1.bias[0] += 1e-3
    assert again()


def test_what_is_interrupted_is_not_there(encoder: Encoder, files: list[str], tmp_path: Path, monkeypatch) -> None:
    cache, tokens = tmp_path / 'cache', encoder.tokens

    def stop(imgs: torch.Tensor, blocks: int) -> torch.Tensor:
        if stop.batches:
            raise KeyboardInterrupt
        stop.batches += 1
        return tokens(imgs, blocks)

    stop.batches = 0
    with monkeypatch.context() as patch:
        patch.setattr(encoder, 'tokens', stop)
        with pytest.raises(KeyboardInterrupt):
            extract(encoder, files, cache, batch_size=2)
    assert stop.batches == 1 and not folders(cache)
    extract(encoder, files, cache)
    assert len(folders(cache)) == 1


def test_what_a_killed_process_left_is_not_used(encoder, files, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / 'cache'
    extract(encoder, files, cache)
    name, = folders(cache)
    (cache / name).rename(cache / f'{name}.partial')
    (cache / f'{name}.partial/patches.npy').write_bytes(b'half')
    assert computed(encoder, files, cache, monkeypatch)
    assert folders(cache) == [name]


@pytest.mark.parametrize('free', [100, 10**12])
def test_a_full_disk_is_an_error_before_or_while(encoder, files, tmp_path, monkeypatch, free) -> None:
    """Before anything is computed, where the sizes tell; in the middle if others fill it."""
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
    if free > 100:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, 'No space left on device')
        monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='--cache DIR' if free == 100 else 'No space') as caught:
        extract(encoder, files, tmp_path / 'cache')
    assert caught.value.errno == errno.ENOSPC and not folders(tmp_path / 'cache')


def test_unreadable_images_are_rows_of_zeros(encoder: Encoder, files: list[str], tmp_path: Path) -> None:
    whole = extract(encoder, files, tmp_path / 'whole')
    for row in (1, 2):
        Path(files[row]).write_bytes(b'no image')
    found = extract(encoder, files, tmp_path / 'cache', batch_size=2)
    assert found.unreadable.keys() == {1, 2} and '1.png' in found.unreadable[1]
    for array, expected in zip(found[:3], whole[:3], strict=True):
        assert not array[1:3].any() and np.allclose(array[[0, 3, 4]], expected[[0, 3, 4]], atol=1e-2)
