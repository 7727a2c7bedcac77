"""Six families of outlines. Each function draws one member of its family: no two are alike, all have its structure.

Outlines are closed polygons without holes, in object coordinates: x to the right, y down, centroid at the origin and
area 1, so that an object drawn at scale s covers s² pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator


class Shape(NamedTuple):
    """A silhouette and the lines inside it."""

    outline: np.ndarray  # (P, 2) float64: closed polygon
    lines: tuple[np.ndarray, ...]  # (Q, 2) float64 each: creases, seams, an eye; visible in the picture, not in masks


def curve(*points: tuple[float, float]) -> np.ndarray:
    """Run a Catmull-Rom spline through K points, with 8 steps between two of them: (8 * (K - 1) + 1, 2)."""
    inner = np.array(points)
    knots = np.vstack([2 * inner[0] - inner[1], inner, 2 * inner[-1] - inner[-2]])
    before, start, stop, after = (knots[i : len(knots) - 3 + i, None] for i in range(4))  # (K - 1, 1, 2) each
    t = np.arange(8)[:, None] / 8
    slope, next_slope = (stop - before) / 2, (after - start) / 2
    path = start + t * slope
    path = path + t**2 * (3 * (stop - start) - 2 * slope - next_slope)
    path = path + t**3 * (2 * (start - stop) + slope + next_slope)
    return np.vstack([path.reshape(-1, 2), inner[-1]])


def polar(angle: np.ndarray, radius: np.ndarray | float, centre: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Turn polar coordinates around a centre into Cartesian ones: (P, 2)."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1) + np.array(centre)


def mirrored(profile: np.ndarray) -> np.ndarray:
    """Close a profile, (P, 2) from top to bottom for x >= 0, with its mirror image: (2 * P, 2)."""
    return np.vstack([profile, profile[::-1] * (-1, 1)])


def star(rng: Generator) -> Shape:
    """Four to seven tips, with a crease from the centre to each."""
    tips = int(rng.integers(4, 8))
    inner = rng.uniform(0.35, 0.6)
    angle = np.arange(2 * tips) * np.pi / tips + rng.normal(0, 0.06, 2 * tips)
    radius = np.where(np.arange(2 * tips) % 2, inner, 1) * rng.uniform(0.85, 1.15, 2 * tips)
    outline = polar(angle, radius)
    return Shape(outline, tuple(np.stack([0 * tip, 0.8 * tip]) for tip in outline[::2]))


def gear(rng: Generator) -> Shape:
    """Eight to twelve square teeth around a hub."""
    teeth = int(rng.integers(8, 13))
    depth, width, slope = rng.uniform(0.15, 0.3), rng.uniform(0.4, 0.6), rng.uniform(0.05, 0.15)
    step = np.array([0, slope, width, width + slope])  # up, along the tooth, down, along the gap: shares of one period
    angle = 2 * np.pi * (np.arange(teeth)[:, None] + step).ravel() / teeth
    outline = polar(angle, np.tile([1 - depth, 1, 1, 1 - depth], teeth))
    around = np.linspace(0, 2 * np.pi, 25)
    return Shape(outline, (polar(around, rng.uniform(0.15, 0.35)),))


def fish(rng: Generator) -> Shape:
    """An oval body, a forked tail, a fin on the back, an eye and a gill."""
    height, fin = rng.uniform(0.4, 0.65), rng.uniform(0.1, 0.4)
    tail, fork = rng.uniform(0.3, 0.55), rng.uniform(0, 0.25)
    back = curve((-1, 0), (-0.6, -0.75 * height), (-0.1, -height), (0.4, -0.6 * height), (0.75, -0.12))
    keel = int(len(back) * rng.uniform(0.35, 0.6))
    back = np.vstack([back[:keel], back[keel] + (0.25, -fin), back[keel + 6 :]])
    belly = curve((0.75, 0.12), (0.4, 0.6 * height), (-0.1, height), (-0.6, 0.75 * height), (-1, 0))
    end = 0.75 + rng.uniform(0.35, 0.6)
    outline = np.vstack([back, [(end, -tail), (end - fork, 0), (end, tail)], belly[:-1]])
    eye = polar(np.linspace(0, 2 * np.pi, 9), 0.05, (-0.68, -0.2 * height))
    gill = polar(np.linspace(-1, 1, 7), 0.55 * height, (-0.6, 0))
    return Shape(outline, (eye, gill))


def leaf(rng: Generator) -> Shape:
    """A pointed blade, smooth or serrated, on a stalk, with its veins."""
    width, belly, stalk = rng.uniform(0.3, 0.6), rng.uniform(-0.25, 0.35), rng.uniform(0.15, 0.4)
    blade = curve((0, -1), (0.65 * width, -0.45), (width, belly), (0.5 * width, 0.75), (0.05, 0.95))
    blade[1:-1:2, 0] *= 1 + rng.choice([0, rng.uniform(0.1, 0.3)])
    outline = mirrored(np.vstack([blade, [(0.05, 0.95 + stalk)]]))
    tips = blade[12:-6:6]
    veins = [np.stack([(0, y + 0.25), (side * 0.8 * x, y)]) for x, y in tips for side in (-1, 1)]
    midrib = np.array([(0, -0.9), (0, 0.95)])
    return Shape(outline, (midrib, *veins))


def vase(rng: Generator) -> Shape:
    """A lip, a neck, a belly and a foot, with two bands."""
    lip, neck, belly = rng.uniform(0.25, 0.5), rng.uniform(0.12, 0.3), rng.uniform(0.5, 0.8)
    shoulder, low, foot = rng.uniform(-0.65, -0.45), rng.uniform(0, 0.45), rng.uniform(0.2, 0.45)
    profile = curve((lip, -1), (neck, shoulder), (belly, low), (foot, 0.88), (foot + 0.08, 1))
    bands = [np.array([(-x, y), (x, y)]) for x, y in ((neck, shoulder), (foot, 0.88))]
    return Shape(mirrored(profile), tuple(bands))


def mushroom(rng: Generator) -> Shape:
    """A cap, flat to pointed, on a stem."""
    cap, brim, peak = rng.uniform(0.75, 1.05), rng.uniform(-0.15, 0.15), rng.uniform(-1, -0.6)
    stem, bulb = rng.uniform(0.18, 0.32), rng.uniform(1, 1.5)
    dome = curve((0, peak), (0.6 * cap, 0.8 * peak), (cap, brim - 0.12), (0.95 * cap, brim))
    foot = curve((stem, brim + 0.08), (stem, 0.5), (stem * bulb, 1))
    brim_line = curve((-0.9 * cap, brim), (0, brim + 0.12), (0.9 * cap, brim))
    return Shape(mirrored(np.vstack([dome, foot])), (brim_line,))


SHAPES = {family.__name__: family for family in (star, fish, leaf, vase, mushroom, gear)}


def draw_shape(family: str, rng: Generator) -> Shape:
    """Draw a member of a family, with its centroid at the origin and area 1."""
    outline, lines = SHAPES[family](rng)
    x, y = outline.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y  # shoelace formula
    area = cross.sum() / 2
    centroid = ((outline + np.roll(outline, -1, 0)) * cross[:, None]).sum(0) / (6 * area)
    size = np.sqrt(abs(area))
    return Shape((outline - centroid) / size, tuple((line - centroid) / size for line in lines))
