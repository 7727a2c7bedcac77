"""Are test images among those of pre-training? Copies are found by bytes and by what they show, mirrored ones too.

ImageHash computes the hashes (perceptual hash of 144 bits by discrete cosine transform). On the demo images re-encoded,
resized and mirrored copies differ in at most 6 bits, different images in 40 or more. Simple pictures, such as digits,
are closer, so that reduced pictures are compared, too.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.limits import read_file
from mae_mm.datasets.pixels import Reading

FILE = 'fingerprints.npz'  # in the work folder of a pre-training
SIDE = 12  # of the hash, in bits
WORDS = 3  # of 64 bits, for 144
MAX_DISTANCE = 16  # bits in which copies may differ
REDUCED = 16  # pixels of the side of reduced gray pictures
MAX_DIFFERENCE = 2.5  # gray levels, on average, by which reduced copies may differ; at quality 60: up to 1
CHUNK = 256  # test images compared at a time


class Fingerprints(NamedTuple):
    """Images as what copies have in common."""

    names: list[str]  # paths
    digests: np.ndarray  # (N, 16) uint8: hash of the file
    hashes: np.ndarray  # (N, 3) uint64: perceptual hash
    mirrored: np.ndarray  # (N, 3) uint64: that of the mirror image
    reduced: np.ndarray  # (N, 16, 16) uint8: gray picture

    def save(self, path: str | Path) -> None:
        """Write a .npz file."""
        np.savez_compressed(path, names=np.array(self.names, dtype=np.str_), digests=self.digests, hashes=self.hashes,
                            mirrored=self.mirrored, reduced=self.reduced)


class Leak(NamedTuple):
    """A test image that pre-training has seen."""

    test: str
    train: str
    how: str  # 'same file', 'same picture' or 'mirrored'
    difference: float  # gray levels of the reduced pictures, on average


def load_fingerprints(path: str | Path) -> Fingerprints:
    """Read what `Fingerprints.save` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return Fingerprints(content['names'].tolist(), *(content[key] for key in Fingerprints._fields[1:]))


def fingerprint(
    names: Sequence[str], read: Callable[[str], bytes] = read_file, desc: str = 'fingerprints',
) -> Fingerprints:
    """Fingerprints of images, 1 ms of CPU each at 128 px, more for larger ones; what cannot be read is left out.

    Args:
        names: paths.
        read: returns the content of the file of that name.

    Raises:
        ValueError: if ImageHash is not installed.
    """
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise ValueError('copies of images are found with ImageHash: pip install imagehash') from error

    def one(name: str) -> tuple[bytes, bytes, bytes, bytes] | None:
        try:
            data = read(name)
            picture = _picture(data, name)
        except (OSError, DecodeError):
            return None
        mirror = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        reduced = picture.convert('L').resize((REDUCED, REDUCED), Image.Resampling.BILINEAR).tobytes()
        return hashlib.blake2b(data, digest_size=16).digest(), _hash(picture), _hash(mirror), reduced

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter('ignore')  # whoever trains on these files is told once
        warnings.filterwarnings('error', '16-bit images are cut')  # dark ones would all look the same
        found = list(tqdm(pool.map(one, names), desc, len(names), unit='img', disable=None))
    kept = [(name, one) for name, one in zip(names, found, strict=True) if one]
    digests, hashes, mirrored, reduced = zip(*(one for _, one in kept), strict=True) if kept else ([], [], [], [])
    return Fingerprints(
        [name for name, _ in kept], np.frombuffer(b''.join(digests), np.uint8).reshape(-1, 16),
        *(np.frombuffer(b''.join(column), np.uint64).reshape(-1, WORDS) for column in (hashes, mirrored)),
        np.frombuffer(b''.join(reduced), np.uint8).reshape(-1, REDUCED, REDUCED))


def _picture(data: bytes, name: str) -> Image.Image:
    """A photograph, or the mean of other bands, from its lowest value to its highest."""
    try:
        return Image.fromarray(decode(data).permute(1, 2, 0).numpy())
    except (DecodeError, UserWarning):
        img = Reading('keep').open(data, 'unchanged', name)[:, :].astype(np.float32)
        known = np.isfinite(img)
        gray = np.where(known, img, 0).sum(2) / known.sum(2).clip(1)
        low, high = gray.min(), gray.max()
        return Image.fromarray(((gray - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)).convert('RGB')


def _hash(picture: Image.Image) -> bytes:
    import imagehash

    bits = np.packbits(imagehash.phash(picture, hash_size=SIDE).hash).tobytes()
    return bits.ljust(8 * WORDS, b'\0')


def find_leaks(test: Fingerprints, train: Fingerprints) -> list[Leak]:
    """The most similar training image of each test image, where that is a copy."""
    leaks = []
    if not train.names:
        return leaks
    files = {digest.tobytes(): name for digest, name in zip(train.digests, train.names, strict=True)}
    views = {'same picture': (test.hashes, test.reduced), 'mirrored': (test.mirrored, test.reduced[:, :, ::-1])}
    for start in range(0, len(test.names), CHUNK):
        rows = slice(start, start + CHUNK)
        close = {how: _distances(hashes[rows], train.hashes) <= MAX_DISTANCE for how, (hashes, _) in views.items()}
        for i, name in enumerate(test.names[rows]):
            if (same := files.get(test.digests[start + i].tobytes())) is not None:
                leaks.append(Leak(name, same, 'same file', 0.0))
                continue
            found = []
            for how, (_, reduced) in views.items():
                for position in np.flatnonzero(close[how][i]):
                    difference = np.abs(reduced[start + i].astype(float) - train.reduced[position]).mean()
                    found.append(Leak(name, train.names[position], how, float(difference)))
            nearest = min(found, key=lambda leak: leak.difference, default=None)
            if nearest and nearest.difference <= MAX_DIFFERENCE:
                leaks.append(nearest)
    return leaks


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamming distances of (N, 4) and (M, 3) uint64: (N, M) uint16."""
    return sum(np.bitwise_count(a[:, None, word] ^ b[None, :, word]).astype(np.uint16) for word in range(WORDS))
