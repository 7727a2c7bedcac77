"""Fingerprints of pre-training images."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.image_tar import ImageTar
from mae_mm.datasets.leaks import FILE, load_fingerprints
from mae_mm.datasets.pack import pack
from mae_mm.engine.hooks import FingerprintHook


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(5):
        (tmp_path / 'images').mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'images/{number}.png')
    (tmp_path / 'images/broken.png').write_bytes(b'no image')
    return tmp_path / 'images'


def run(dataset: object, work_dir: Path, **options: object) -> list[str]:
    lines = []
    work_dir.mkdir(exist_ok=True)
    FingerprintHook(**options).before_train(SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset), work_dir=str(work_dir), iter=0,
        logger=SimpleNamespace(info=lines.append)))
    return lines


def test_folders_and_tars_have_the_same_fingerprints(images: Path, tmp_path: Path) -> None:
    pack(str(images), str(tmp_path / 'tars'))
    assert run(ImageFolder(str(images)), tmp_path / 'a') == [] == run(ImageTar(str(tmp_path / 'tars')), tmp_path / 'b')
    folder, tar = (load_fingerprints(tmp_path / name / FILE) for name in 'ab')
    assert folder.names == [f'{images}/{number}.png' for number in range(5)]  # the broken one has none
    assert [Path(name).name for name in tar.names] == [Path(name).name for name in folder.names]
    assert (folder.hashes == tar.hashes).all() and (folder.digests == tar.digests).all()


def test_large_sets_have_none_and_say_so(images: Path, tmp_path: Path) -> None:
    line, = run(ImageFolder(str(images)), tmp_path / 'a', max_images=5)
    assert 'max_images' in line and not (tmp_path / 'a' / FILE).exists()
