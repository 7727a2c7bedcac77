"""Copies are found whatever was done to them; pictures that only look alike are not."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mae_mm.datasets.leaks import MAX_DISTANCE, _distances, find_leaks, fingerprint, load_fingerprints


def picture(seed: int, noise: float = 8.0) -> Image.Image:
    """A random picture of 96 x 64 px with some grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((96, 64), Image.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + noise * rng.normal(size=(64, 96, 3)), 0, 255).astype(np.uint8))


def recode(image: Image.Image) -> Image.Image:
    image.save(buffer := BytesIO(), 'JPEG', quality=60)
    return Image.open(buffer).convert('RGB')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('leaks')
    for i in range(40):
        picture(i).save(root / f'train{i}.png')
    (root / 'same.png').write_bytes((root / 'train3.png').read_bytes())
    recode(picture(4)).save(root / 'recoded.png')
    picture(5).resize((48, 32), Image.BICUBIC).save(root / 'half.png')
    recode(ImageOps.mirror(picture(6))).save(root / 'mirrored.png')
    for i in range(20):
        picture(100 + i).save(root / f'other{i}.png')
    (root / 'broken.png').write_bytes(b'no image')
    return root


def test_copies_are_found_and_others_are_not(folder: Path, tmp_path: Path) -> None:
    train = fingerprint([f'{folder}/train{i}.png' for i in range(40)])
    names = ['same', 'recoded', 'half', 'mirrored', 'broken', *(f'other{i}' for i in range(20))]
    test = fingerprint([f'{folder}/{name}.png' for name in names])
    assert len(test.names) == 24  # the broken one has no fingerprint
    train.save(tmp_path / 'train.npz')
    leaks = find_leaks(test, load_fingerprints(tmp_path / 'train.npz'))
    assert [(Path(leak.test).name, Path(leak.train).name, leak.how) for leak in leaks] == [
        ('same.png', 'train3.png', 'same file'), ('recoded.png', 'train4.png', 'same picture'),
        ('half.png', 'train5.png', 'same picture'), ('mirrored.png', 'train6.png', 'mirrored')]


def test_images_of_other_bands_and_types(tmp_path: Path) -> None:
    def bands(seed: int) -> np.ndarray:
        gray = np.asarray(picture(seed).convert('L'), np.float32)[..., None]
        return gray * 30 + np.arange(6)

    for i in range(6):
        np.save(tmp_path / f'{i}.npy', bands(i))
    np.save(tmp_path / 'flat.npy', np.full((20, 20, 6), np.nan))
    (tmp_path / 'same.npy').write_bytes((tmp_path / '2.npy').read_bytes())
    np.save(tmp_path / 'gain.npy', (bands(3)[:, ::-1] * 2).astype(np.uint16))
    np.save(tmp_path / 'other.npy', bands(9))
    train, test = (fingerprint([f'{tmp_path}/{name}.npy' for name in names]) for names in (
        [*range(6), 'flat'], ['same', 'gain', 'other']))
    assert len(train.names) == 6
    assert [(leak.train[-5:], leak.how) for leak in find_leaks(test, train)] == [
        ('2.npy', 'same file'), ('3.npy', 'mirrored')]


def test_dark_images_of_16_bits_are_no_copies_of_each_other(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """12 bits in 16: of their upper bytes little would remain to tell them apart. No warning comes of looking."""
    for i in range(2):
        gray = np.asarray(picture(i).convert('L')).astype(np.uint16)
        Image.fromarray(gray * 16).save(tmp_path / f'{i}.png')
    paths = [str(tmp_path / f'{i}.png') for i in range(2)]
    prints = fingerprint(paths)
    assert np.ptp(prints.reduced[0].astype(int)) > 100
    assert not find_leaks(fingerprint(paths[:1]), fingerprint(paths[1:])) and not recwarn.list


def test_no_training_images(folder: Path) -> None:
    test = fingerprint([f'{folder}/same.png'])
    assert find_leaks(test, fingerprint([])) == []


def test_simple_pictures_that_resemble_each_other_are_no_copies(tmp_path: Path) -> None:
    """Strokes on black, as handwritten digits: their hashes are close, their pixels are not."""
    names, rng = [], np.random.default_rng(0)
    for i in range(80):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[1:7, 2:6] = rng.integers(90, 256, (6, 4)) * np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1],
                                                                     [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
        names.append(str(tmp_path / f'{i}.png'))
        Image.fromarray(pixels).resize((48, 48), Image.BICUBIC).save(names[-1])
    prints = fingerprint(names)
    first, second = (type(prints)(*(column[rows] for column in prints)) for rows in (slice(0, 40), slice(40, None)))
    assert (_distances(first.hashes, second.hashes) <= MAX_DISTANCE).any()
    assert find_leaks(first, second) == []
