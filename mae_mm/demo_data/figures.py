"""A figure: a shape in a pose, its silhouette on a pixel grid, and the positions of its surface points."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from mae_mm.demo_data.shapes import Shape, draw_shape

SUBPIXELS = 4  # per axis, for the coverage of edge pixels
FRACTION_BITS = 3  # of the fixed-point coordinates that OpenCV fills polygons with


class Window(NamedTuple):
    """A rectangle of pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class Figure(NamedTuple):
    """A shape in a pose. Pixel (row r, column c) covers the square [c, c + 1) × [r, r + 1)."""

    shape: Shape
    scale: float  # square root of the area, in pixels
    matrix: np.ndarray  # (2, 2) float64: rotation, shear, aspect and mirroring; determinant ±1
    bend: float  # x shift per squared y, applied to object coordinates before the matrix
    centre: np.ndarray  # (2,) float64: x, y in pixels

    def zoomed(self, factor: float) -> 'Figure':
        """The same figure on a grid that is finer by a factor."""
        return self._replace(scale=self.scale * factor, centre=self.centre * factor)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Map (P, 2) object coordinates to (P, 2) pixel coordinates."""
        bent = points + np.stack([self.bend * points[:, 1] ** 2, np.zeros(len(points))], axis=-1)
        return self.scale * bent @ self.matrix.T + self.centre

    def from_pixels(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Find the object coordinates x and y, (H, W) float32 each, of the pixel centres of a window."""
        column = np.arange(window.width, dtype=np.float32) + np.float32(window.x + 0.5 - self.centre[0])
        row = np.arange(window.height, dtype=np.float32)[:, None] + np.float32(window.y + 0.5 - self.centre[1])
        (a, b), (c, d) = np.float32(np.linalg.inv(self.matrix) / self.scale)
        y = c * column + d * row
        return a * column + b * row - np.float32(self.bend) * y**2, y

    def window(self, size: tuple[int, int], margin: int = 0) -> Window:
        """Bound the figure, with a margin in pixels, inside a picture of (height, width)."""
        outline = self.to_pixels(self.shape.outline)
        limit = size[::-1]
        x0, y0 = np.clip(np.floor(outline.min(0)) - margin, 0, limit).astype(int)
        x1, y1 = np.clip(np.ceil(outline.max(0)) + margin, 0, limit).astype(int)
        return Window(int(x0), int(y0), int(x1 - x0), int(y1 - y0))

    def coverage(self, window: Window) -> np.ndarray:
        """Share of each pixel of a window that the silhouette covers: (H, W) float32 in [0, 1]."""
        points = (self.to_pixels(self.shape.outline) - (window.x, window.y)) * SUBPIXELS - 0.5
        fine = np.zeros((window.height * SUBPIXELS, window.width * SUBPIXELS), np.uint8)
        cv2.fillPoly(fine, [_fixed_point(points)], 255, shift=FRACTION_BITS)
        return cv2.resize(fine, (window.width, window.height), interpolation=cv2.INTER_AREA) / np.float32(255)

    def line_coverage(self, window: Window, thickness: int) -> np.ndarray:
        """Share of each pixel of a window under the inner lines, `thickness` pixels wide: (H, W) float32 in [0, 1]."""
        drawn = np.zeros((window.height, window.width), np.uint8)
        lines = [_fixed_point(self.to_pixels(line) - (window.x + 0.5, window.y + 0.5)) for line in self.shape.lines]
        cv2.polylines(drawn, lines, False, 255, thickness, cv2.LINE_AA, FRACTION_BITS)
        return drawn / np.float32(255)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """Pixels of a picture that the silhouette covers by half or more: (H, W) bool."""
        mask = np.zeros(size, bool)
        window = self.window(size)
        if window.width and window.height:
            mask[window.slices] = self.coverage(window) >= 0.5
        return mask


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * 2**FRACTION_BITS).astype(np.int32)


def draw_figure(family: str, scale: float, centre: np.ndarray, rng: Generator) -> Figure:
    """Draw a member of a shape family and a pose: mostly upright, mirrored or not, stretched, sheared and bent."""
    shape = draw_shape(family, rng)
    angle = rng.normal(0, np.pi / 7)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    aspect = np.exp(rng.normal(0, 0.15))
    shear = np.array([[aspect, rng.normal(0, 0.12)], [0, 1 / aspect]])
    mirror = np.diag([rng.choice([-1, 1]), 1])
    return Figure(shape, scale, rotation @ shear @ mirror, rng.normal(0, 0.1), centre)
