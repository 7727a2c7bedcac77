"""Views of images as one self-contained HTML page, on which a click on a patch shows what resembles it."""

import base64
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Template  # torch requires it, so it is always there; and it escapes what goes into the page
from PIL import Image
from torch import Tensor

import mae_mm
from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.limits import printable
from mae_mm.visualization.pictures import data_uri, resize
from mae_mm.visualization.tokens import compress

MAX_TOKENS = 2_000_000  # bytes of tokens in the page
MAX_PIXELS = 16_000_000  # of all pictures together: about 3 MB as JPEG
SIDES = 64, 256  # pixels: of a picture in a table, at least and at most


class Clickable(NamedTuple):
    """What a page needs to compare patches."""

    tokens: Tensor  # (N, L, D)
    grid: tuple[int, int]
    start: str  # IMAGE:X,Y of the patch that is chosen at first
    colours: np.ndarray  # (256, 3) uint8


class View(NamedTuple):
    """Pictures of N images in several columns; the page, which is wider than high, has them as rows."""

    title: str
    text: str
    columns: dict[str, np.ndarray]  # heading -> (N, H, W, 3) uint8
    clickable: Clickable | None = None


def write_page(
    path: str | Path, checkpoint: str, views: Sequence[View], paths: Sequence[str], size: tuple[int, int],
    photos: np.ndarray,
) -> None:
    """Write the page; its limits are about 2.7 MB of tokens and 3 MB of pictures, which are shrunk to fit.

    Args:
        paths: files of the N images.
        size: height and width in pixels of what the encoder gets.
        photos: (N, H, W, 3) uint8, the same as they are shown.
    """
    cells = len(paths) * sum(len(view.columns) for view in views)
    side = min(max(math.isqrt(MAX_PIXELS // cells), SIDES[0]), SIDES[1])
    tables = [dict(title=view.title, text=view.text, rows={
        name: [picture(cell, side) for cell in column] for name, column in view.columns.items()}) for view in views]
    clickable = next((view.clickable for view in views if view.clickable), None)
    page = Template((Path(__file__).parent / 'page.html').read_text(encoding='utf-8'), autoescape=True).render(
        checkpoint=checkpoint, date=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        version=mae_mm.__version__, size=size, names=[printable(Path(path).name) for path in paths], tables=tables,
        clickable=clickable and embed_tokens(clickable, size), photos=[picture(photo) for photo in photos],
        asked=clickable is not None)
    write_beside(path, lambda partial: partial.write_text(page, encoding='utf-8'))


def embed_tokens(clickable: Clickable, size: tuple[int, int]) -> dict | None:
    """What the page's script reads; None if there are too many tokens for a page."""
    if (compressed := compress(clickable.tokens, MAX_TOKENS)) is None:
        return None
    directions, share = compressed
    rows, cols = clickable.grid
    return dict(
        rows=rows, cols=cols, dims=directions.shape[-1], patch=size[0] // rows, start=clickable.start, share=share,
        full=clickable.tokens.shape[-1], tokens=base64.b64encode(directions.tobytes()).decode(),
        colours=base64.b64encode(clickable.colours.tobytes()).decode())


def picture(image: np.ndarray, side: int = 0) -> str:
    """An image as text that stands inside the page, its longer side at most `side` pixels; 0 keeps its size."""
    smaller = resize(image, min(side, max(image.shape[:2])))
    return data_uri(lambda file, format: Image.fromarray(smaller).save(file, format=format, quality=85), 'jpeg')
