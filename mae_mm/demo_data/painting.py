"""Paint a composition: photographs as materials, patterns, light and shadows, then the imperfections of a camera."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from mae_mm.demo_data.categories import CATEGORIES
from mae_mm.demo_data.composition import Composition
from mae_mm.demo_data.figures import Figure, Window
from mae_mm.demo_data.photos import PHOTOS, STUFF, random_crop, random_tint, recolour
from mae_mm.demo_data.textures import draw_texture

ZOOM = 2  # canvas pixels per image pixel and axis


class Light(NamedTuple):
    """One lamp for the whole scene."""

    towards: np.ndarray  # (2,) float32 unit vector x, y in the picture, pointing at the lamp
    elevation: float  # z component for unit length in the picture: low values give strong relief
    shadow: float  # darkness of cast shadows, in [0, 1]


def draw_light(rng: Generator) -> Light:
    """Draw a lamp, more often above than below."""
    angle = -np.pi / 2 + rng.normal(0, 0.9)
    return Light(np.float32([np.cos(angle), np.sin(angle)]), rng.uniform(0.8, 2), rng.uniform(0.25, 0.65))


def soften(image: np.ndarray, radius: float) -> np.ndarray:
    """Blur with two box filters of a radius in pixels: cheap at any radius."""
    side = 2 * int(radius) + 1
    return cv2.blur(cv2.blur(image, (side, side)), (side, side))


def relief(alpha: np.ndarray, bevel: float, light: Light) -> np.ndarray:
    """Shade a silhouette as if it were a cushion.

    Args:
        alpha: (H, W) float32 coverage in [0, 1].
        bevel: width in pixels over which the surface rises from the edge.
        light: the lamp.

    Returns:
        (H, W) float32 brightness factor, 1 on a flat surface.
    """
    depth = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    rise = 1 - np.minimum(depth / np.float32(bevel), 1)
    surface = soften(np.sqrt(np.maximum(1 - rise**2, 0)) * np.float32(0.6 * bevel), bevel / 8)
    slope_x = cv2.Sobel(surface, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(surface, cv2.CV_32F, 0, 1, scale=1 / 8)
    facing = 1 - (slope_x * light.towards[0] + slope_y * light.towards[1]) / np.float32(light.elevation)
    return np.clip(facing / np.sqrt(1 + slope_x**2 + slope_y**2), 0.25, 1.6)


def draw_surface(figure: Figure, texture: str, window: Window, split: str, rng: Generator) -> np.ndarray:
    """Lay a pattern of two photographs over a window: (H, W, 3) float32 RGB."""
    size = window.height, window.width
    x, y = figure.from_pixels(window)
    share = draw_texture(texture, x, y, 1 / figure.scale, rng)[..., None]
    brightness = rng.uniform(0.25, 0.75)
    step = rng.uniform(0.18, 0.45) * (1 if brightness < 0.5 else -1)
    base = random_tint(rng.uniform(0, 0.4), rng)
    materials = []
    for level in (brightness, brightness + step):
        patch = random_crop(PHOTOS[rng.integers(len(PHOTOS))], split, size, (0.8, 2.5), rng)
        tint, hue = base * random_tint(rng.uniform(0, 0.3), rng), rng.uniform(0, 2 * np.pi)
        materials.append(recolour(patch, level, rng.uniform(0.03, 0.12), tint, rng.uniform(0, 1), hue))
    surface = materials[0] + share * (materials[1] - materials[0])
    lines = figure.line_coverage(window, max(1, round(0.025 * figure.scale)))
    return surface * (1 - np.float32(rng.uniform(0.2, 0.6)) * lines[..., None])


def paint_figure(canvas: np.ndarray, figure: Figure, texture: str, light: Light, split: str, rng: Generator) -> None:
    """Paint an object and its cast shadow onto (H, W, 3) float32 `canvas`, in place."""
    window = figure.window(canvas.shape[:2], margin=int(0.3 * figure.scale) + 2)
    if not (window.width and window.height):
        return
    ground = canvas[window.slices]
    alpha = figure.coverage(window)

    fall = -light.towards * np.float32(figure.scale * rng.uniform(0.04, 0.16))
    shift = np.float32([[1, 0, fall[0]], [0, 1, fall[1]]])
    shadow = soften(cv2.warpAffine(alpha, shift, (window.width, window.height)), figure.scale * rng.uniform(0.01, 0.05))
    ground *= 1 - np.float32(light.shadow) * shadow[..., None]

    surface = draw_surface(figure, texture, window, split, rng)
    surface *= relief(alpha, figure.scale * rng.uniform(0.1, 0.45), light)[..., None]
    ground += alpha[..., None] * (surface - ground)


def paint_ground(composition: Composition, split: str, rng: Generator) -> np.ndarray:
    """Paint the background on the fine canvas: (ZOOM * H, ZOOM * W, 3) float32 RGB."""
    size = composition.size[0] * ZOOM, composition.size[1] * ZOOM
    layers = []
    for material in composition.ground.materials:
        patch = random_crop(STUFF[material], split, size, (1.2, 3.5), rng)
        tint, hue = random_tint(rng.uniform(0, 0.35), rng), rng.normal(0, 0.4)
        layers.append(recolour(patch, rng.uniform(0.25, 0.7), rng.uniform(0.06, 0.18), tint, rng.uniform(0.3, 1), hue))
    if composition.ground.materials[0] == composition.ground.materials[1]:
        return layers[0]
    below = composition.ground.below(size, ZOOM)
    crease = 1 - np.float32(rng.uniform(0, 0.5)) * np.exp(-np.abs(below) / np.float32(rng.uniform(4, 16)))
    share = np.clip(below + 0.5, 0, 1)[..., None]
    return (layers[0] + share * (layers[1] - layers[0])) * crease[..., None]


def expose(canvas: np.ndarray, size: tuple[int, int], rng: Generator) -> np.ndarray:
    """Photograph the canvas: uneven light, white balance, gamma, blur or shake, noise.

    Args:
        canvas: (ZOOM * H, ZOOM * W, 3) float32 RGB.
        size: H, W.
        rng: source of all faults.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if rng.uniform() < 0.12:
        length = int(rng.integers(3, 7))
        kernel = np.zeros((length, length), np.float32)
        start, stop = (0, int(rng.integers(length))), (length - 1, int(rng.integers(length)))
        cv2.line(kernel, start, stop, 1.0)
        canvas = cv2.filter2D(canvas, -1, kernel / kernel.sum())
    elif rng.uniform() < 0.4:
        canvas = cv2.GaussianBlur(canvas, None, rng.uniform(0.6, 1.8))
    image = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)
    row = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    column = np.linspace(-1, 1, size[1], dtype=np.float32)
    ramp_x, ramp_y = np.float32(rng.normal(0, 0.12, 2))
    vignette = np.float32(rng.uniform(0, 0.15))
    exposure = np.float32(np.exp(rng.normal(0, 0.15)))
    lamp = exposure * (1 + ramp_x * column + ramp_y * row - vignette * (row**2 + column**2))
    image = np.clip(image * lamp[..., None] * random_tint(0.1 * rng.uniform(), rng), 0, 1)
    image = image ** np.float32(np.exp(rng.normal(0, 0.15)))
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.025))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def paint(composition: Composition, split: str, rng: Generator) -> np.ndarray:
    """Paint a composition with the photographs of a split: (H, W, 3) uint8 RGB."""
    light = draw_light(rng)
    canvas = paint_ground(composition, split, rng)
    for item in composition.items:
        for figure in item.figures:
            paint_figure(canvas, figure.zoomed(ZOOM), CATEGORIES[item.category].texture, light, split, rng)
    return expose(canvas, composition.size, rng)
