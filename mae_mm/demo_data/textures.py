"""Six families of surface patterns, as fields over object coordinates.

Each function maps positions, (H, W) float32 x and y in units of the square root of the object's area, to a field of
roughly the signed distance, in the same unit, to the nearest edge of the pattern: positive on one of its two materials,
negative on the other.
"""

import numpy as np
from numpy.random import Generator


def _rotated(x: np.ndarray, y: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _wave(phase: np.ndarray, cycles: float, bias: float = 0) -> np.ndarray:
    """Alternate sign `cycles` times a unit; `bias` in (-1, 1) makes one of the two materials wider."""
    return (np.sin(np.float32(2 * np.pi) * phase) - np.float32(bias)) / np.float32(2 * np.pi * cycles)


def stripes(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """Straight parallel bands."""
    across, _ = _rotated(x, y, rng)
    return _wave(across * np.float32(cycles) + np.float32(rng.uniform()), cycles, rng.uniform(-0.5, 0.5))


def zigzag(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """Parallel bands that are folded."""
    across, along = _rotated(x, y, rng)
    fold = np.abs((along * np.float32(cycles * rng.uniform(0.5, 0.8)) + np.float32(rng.uniform())) % 1 - 0.5)
    phase = across * np.float32(cycles) + np.float32(rng.uniform(1.6, 2.4)) * fold
    return _wave(phase, 1.5 * cycles, rng.uniform(-0.4, 0.4))


def rings(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """Concentric bands around a point inside the object."""
    cx, cy = np.float32(rng.uniform(-0.2, 0.2, 2))
    phase = np.hypot(x - cx, y - cy) * np.float32(cycles) + np.float32(rng.uniform())
    return _wave(phase, cycles, rng.uniform(-0.5, 0.5))


def dots(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """Discs on a square or staggered lattice."""
    u, v = _rotated(x, y, rng)
    pitch = np.float32(1 / cycles)
    v = v / pitch + np.float32(rng.uniform())
    u = u / pitch + np.float32(rng.uniform()) + np.floor(v) * np.float32(rng.choice([0, 0.5]))
    return (np.float32(rng.uniform(0.26, 0.4)) - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * pitch


def checks(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """A chess board."""
    u, v = _rotated(x, y, rng)
    u, v = u * np.float32(cycles) + np.float32(rng.uniform()), v * np.float32(cycles) + np.float32(rng.uniform())
    near_u, near_v = (np.abs(w % 1 - 0.5) - 0.25 for w in (u, v))  # signed distance to the grid lines, in periods
    return np.sign(near_u * near_v) * np.minimum(np.abs(near_u), np.abs(near_v)) / np.float32(cycles)


def patches(x: np.ndarray, y: np.ndarray, cycles: float, rng: Generator) -> np.ndarray:
    """Irregular blotches, as on a cow: the sign of a sum of plane waves in random directions."""
    angles = np.arange(9) * np.pi / 9 + rng.uniform(0, np.pi)
    rates = 2 * np.pi * cycles * rng.uniform(0.4, 1, 9)
    offsets = rng.uniform(0, 2 * np.pi, 9)
    field = np.zeros_like(x)
    for kx, ky, offset in np.float32(np.stack([rates * np.cos(angles), rates * np.sin(angles), offsets], axis=-1)):
        field += np.sin(kx * x + ky * y + offset)
    return (field - np.float32(rng.uniform(-0.7, 0.7))) / np.float32(2 * np.pi * cycles * 1.5)


TEXTURES = {family.__name__: family for family in (stripes, dots, rings, zigzag, checks, patches)}


def draw_texture(family: str, x: np.ndarray, y: np.ndarray, pixel: float, rng: Generator) -> np.ndarray:
    """Draw a member of a family, slightly distorted, with anti-aliased edges.

    Args:
        family: a key of `TEXTURES`.
        x: (H, W) float32, in units of the square root of the object's area.
        y: likewise.
        pixel: size of a pixel in that unit.
        rng: source of all variation.

    Returns:
        (H, W) float32 in [0, 1]: share of the first of the two materials.
    """
    cycles = rng.uniform(2, 3.2)
    bend = np.float32(rng.uniform(0, 0.06, 2))
    rate, offset = np.float32(rng.uniform(2, 6, 2)), np.float32(rng.uniform(0, 2 * np.pi, 2))
    warped_x = x + bend[0] * np.sin(rate[0] * y + offset[0])
    warped_y = y + bend[1] * np.sin(rate[1] * x + offset[1])
    field = TEXTURES[family](warped_x, warped_y, cycles, rng)
    return np.clip(field / np.float32(pixel) + np.float32(0.5), 0, 1)
