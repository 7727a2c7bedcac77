"""One picture of many scenes with all their annotations."""

from pathlib import Path

import cv2
import numpy as np

from mae_mm.demo_data.annotations import mask_to_box, mask_to_polygons
from mae_mm.demo_data.categories import CATEGORIES
from mae_mm.demo_data.layouts import palette
from mae_mm.demo_data.scenes import Scene, encode_jpeg, make_scene

TILE = 230  # side in pixels of the square in which a picture is shown
FOOT = 18  # height in pixels of the caption
COLUMNS = 3


def _tile(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale a (H, W, 3) RGB picture into the corner of a tile: (TILE + FOOT, TILE, 3) uint8, and the factor."""
    factor = TILE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)[:TILE, :TILE]
    tile = np.full((TILE + FOOT, TILE, 3), 24, np.uint8)
    tile[: image.shape[0], : image.shape[1]] = image
    return tile, factor


def draw_scene(scene: Scene) -> np.ndarray:
    """Show a scene three times: as stored, with polygons and boxes, and with its label map: (h, 3 * TILE, 3) uint8."""
    picture = cv2.imdecode(np.frombuffer(encode_jpeg(scene), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    plain, factor = _tile(picture)
    cv2.putText(plain, CATEGORIES[scene.label].name, (3, TILE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)

    colours = np.array([[0, 0, 0], *palette()], np.uint8)
    instances, _ = _tile(picture)
    for instance in scene.instances:
        colour = tuple(int(channel) for channel in colours[instance.category + 1])
        polygons = [np.int32(np.round(np.reshape(p, (-1, 2)) * factor)) for p in mask_to_polygons(instance.mask)]
        cv2.polylines(instances, polygons, True, colour, 2, cv2.LINE_AA)
        x, y, width, height = (round(value * factor) for value in mask_to_box(instance.mask))
        cv2.rectangle(instances, (x, y), (x + width - 1, y + height - 1), colour, 1)
        name = CATEGORIES[instance.category].name + (' crowd' if instance.is_crowd else '')
        for ink, thickness in (((0, 0, 0), 2), ((255, 255, 255), 1)):
            at = (x + 2, max(y + 10, 10))
            cv2.putText(instances, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.32, ink, thickness, cv2.LINE_AA)

    overlay, _ = _tile(picture // 4 + colours[scene.pixel_labels] // 4 * 3)
    return np.hstack([plain, instances, overlay])


def write_preview(path: str | Path, seed: int = 0, split: str = 'train', rows: int = 8) -> Path:
    """Write a grid of `rows` × 3 scenes.

    Args:
        path: of the picture; its suffix sets the format.
        seed: of the data set.
        split: 'train' or 'val'.
        rows: number of rows of three scenes.

    Raises:
        ValueError: if the suffix is no image format that OpenCV can write.
    """
    path = Path(path)
    if not path.suffix or not cv2.haveImageWriter(path.name):
        raise ValueError(f'{path}: not the extension of an image format; use .png or .jpg')
    scenes = [draw_scene(make_scene(seed, split, index)) for index in range(rows * COLUMNS)]
    panel = np.vstack([np.hstack(scenes[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), panel[..., ::-1])
    return path
