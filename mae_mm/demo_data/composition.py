"""What a scene contains and where: the objects, their order in depth, and the two materials of the background."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from mae_mm.demo_data.categories import CATEGORIES
from mae_mm.demo_data.figures import Figure, draw_figure
from mae_mm.demo_data.photos import STUFF

SIZES = (96, 160)  # shortest and longest image side in pixels
MAX_OTHERS = 4  # objects beside the dominant one, at most
CROWD_RATE = 0.12  # share of scenes with a cluster of tiny objects
DOMINANCE = 2  # the dominant object has at least this many times the visible pixels of any other
BACKGROUND = -1


class Item(NamedTuple):
    """One object, or one crowd of tiny objects."""

    category: int
    figures: tuple[Figure, ...]  # one, or the members of the crowd
    is_crowd: bool

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """All pixels of the item, hidden ones too: (H, W) bool."""
        return np.any([figure.mask(size) for figure in self.figures], axis=0)


class Ground(NamedTuple):
    """A background of one or two materials, split by a wavy line."""

    materials: tuple[int, int]  # indices into `photos.STUFF`: above and below the line
    normal: np.ndarray  # (2,) float64 unit vector across the line, x, y
    height: float  # distance of the line from the corner (0, 0) along the normal, in pixels
    wave: tuple[float, float, float]  # amplitude in pixels, angular rate per pixel, phase

    def below(self, size: tuple[int, int], zoom: float) -> np.ndarray:
        """Signed distance in fine pixels, positive below the line, on a grid finer by `zoom`: (H, W) float32."""
        column = (np.arange(size[1], dtype=np.float32) + 0.5) / np.float32(zoom)
        row = (np.arange(size[0], dtype=np.float32)[:, None] + 0.5) / np.float32(zoom)
        nx, ny = np.float32(self.normal)
        amplitude, rate, phase = np.float32(self.wave)
        along = ny * column - nx * row
        across = nx * column + ny * row - np.float32(self.height)
        return (across + amplitude * np.sin(rate * along + phase)) * np.float32(zoom)


class Composition(NamedTuple):
    """A scene before it is painted."""

    size: tuple[int, int]  # height, width in pixels
    ground: Ground
    items: tuple[Item, ...]  # from back to front
    owner: np.ndarray  # (H, W) int16: index of the visible item, or BACKGROUND
    dominant: int  # index into items


def has_hole(mask: np.ndarray) -> bool:
    """Whether a (H, W) bool mask has holes, which a polygon cannot describe."""
    _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return hierarchy is not None and bool((hierarchy[0, :, 3] >= 0).any())


def draw_ground(size: tuple[int, int], rng: Generator) -> Ground:
    """Draw materials and the line between them; in a third of all scenes both are the same."""
    materials = rng.choice(len(STUFF), 2, replace=False)
    if rng.uniform() < 1 / 3:
        materials[1] = materials[0]
    angle = np.pi / 2 + rng.normal(0, 0.25)
    normal = np.array([np.cos(angle), np.sin(angle)])
    height = normal @ (size[1] / 2, size[0] * rng.uniform(0.3, 0.7))
    wave = (rng.uniform(0, 5), rng.uniform(0.03, 0.12), rng.uniform(0, 2 * np.pi))
    return Ground((int(materials[0]), int(materials[1])), normal, float(height), wave)


def draw_crowd(category: int, size: tuple[int, int], rng: Generator) -> Item:
    """Draw 8 to 16 tiny objects of one category that stand close together."""
    count, unit = int(rng.integers(8, 17)), rng.uniform(6, 10)
    middle = rng.uniform(0.1, 0.9, 2) * size[::-1]
    spread = unit * np.sqrt(count) * 0.55
    centres = middle + rng.uniform(-spread, spread, (count, 2)) * (1.5, 1)
    family = CATEGORIES[category].shape
    figures = [draw_figure(family, unit * rng.uniform(0.8, 1.2), centre, rng) for centre in centres]
    return Item(category, tuple(sorted(figures, key=lambda figure: figure.centre[1])), is_crowd=True)


def is_sound(items: list[Item], masks: list[np.ndarray], owner: np.ndarray, dominant: int) -> bool:
    """Check that enough of each item is visible, that none has a hole, and that the dominant one dominates."""
    shown = [owner == index for index in range(len(items))]
    areas = np.array([mask.sum() for mask in shown])
    whole = np.array([mask.sum() for mask in masks])
    needed = np.full(len(items), 0.4)
    needed[dominant] = 0.75
    if (areas < np.maximum(needed * whole, 24)).any():
        return False
    if (np.delete(areas, dominant) * DOMINANCE > areas[dominant]).any():
        return False
    return not any(has_hole(mask) for mask, item in zip(shown, items, strict=True) if not item.is_crowd)


def compose(label: int, rng: Generator) -> Composition:
    """Draw a scene: one dominant object, up to four others and perhaps a crowd, before or behind it.

    Args:
        label: category of the dominant object.
        rng: source of everything else.
    """
    height, width = (int(side) for side in rng.integers(SIZES[0], SIZES[1] + 1, 2))
    size = height, width
    ground = draw_ground(size, rng)
    scale = rng.uniform(0.5, 0.75) * min(size)
    middle = np.array([width, height]) * (0.5 + rng.uniform(-0.1, 0.1, 2))
    main = Item(label, (draw_figure(CATEGORIES[label].shape, scale, middle, rng),), is_crowd=False)

    items, masks = [main], [main.mask(size)]
    owner = np.where(masks[0], 0, BACKGROUND).astype(np.int16)
    order = [0]  # indices into items, from back to front
    wishes = [False] * int(rng.binomial(MAX_OTHERS, 0.4)) + [True] * int(rng.uniform() < CROWD_RATE)
    for is_crowd in wishes:
        for _ in range(5):
            category = int(rng.integers(len(CATEGORIES)))
            if is_crowd:
                item = draw_crowd(category, size, rng)
            else:
                place = rng.uniform(0.05, 0.95, 2) * (width, height)
                figure = draw_figure(CATEGORIES[category].shape, scale * rng.uniform(0.2, 0.42), place, rng)
                item = Item(category, (figure,), is_crowd=False)
            mask, in_front = item.mask(size), bool(rng.uniform() < 0.5)
            trial = np.where(mask & (in_front | (owner == BACKGROUND)), np.int16(len(items)), owner)
            if is_sound([*items, item], [*masks, mask], trial, 0):
                order.insert(len(order) if in_front else 0, len(items))
                items, masks, owner = [*items, item], [*masks, mask], trial
                break
    rank = np.append(np.argsort(order), BACKGROUND).astype(np.int16)  # new index of each old one; [-1] is background
    return Composition(size, ground, tuple(items[index] for index in order), rank[owner], order.index(0))
