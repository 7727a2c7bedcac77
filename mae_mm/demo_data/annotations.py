"""Masks in COCO's formats: polygons, run lengths, boxes."""

import cv2
import numpy as np

from mae_mm.demo_data.scenes import Instance

GRID = 4  # contours are traced on a grid finer by this factor, so that they follow pixel borders, not centres
TOLERANCE = 0.6  # of the simplified contour, in pixels


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outline each connected part of a (H, W) bool mask: [[x0, y0, x1, y1, ...], ...] in pixels, as COCO does.

    Parts too small for a triangle are left out; the outline of a part ignores its holes.
    """
    fine = np.kron(mask.astype(np.uint8), np.ones((GRID, GRID), np.uint8))
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, TOLERANCE * GRID, True)[:, 0]
        if len(corners) > 2:
            polygons.append(np.round((corners + 0.5) / GRID, 2).ravel().tolist())
    return polygons


def mask_to_rle(mask: np.ndarray) -> dict:
    """Count runs of equal pixels, column by column, zeros first: COCO's uncompressed run lengths."""
    changes = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {'counts': counts.tolist(), 'size': list(mask.shape)}


def mask_to_box(mask: np.ndarray) -> list[float]:
    """Bound a (H, W) bool mask: [x, y, width, height] in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = columns[0], rows[0]
    return [float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)]


def coco_annotation(instance: Instance) -> dict:
    """Describe an instance as in COCO's json, without the ids of image and annotation."""
    segmentation = mask_to_rle(instance.mask) if instance.is_crowd else mask_to_polygons(instance.mask)
    return dict(
        segmentation=segmentation,
        area=float(instance.mask.sum()),
        iscrowd=int(instance.is_crowd),
        bbox=mask_to_box(instance.mask),
        category_id=instance.category + 1,
    )
