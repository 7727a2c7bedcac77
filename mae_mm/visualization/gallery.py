"""The nearest images of some queries, as one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jinja2 import Template
from PIL import Image

from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.limits import printable
from mae_mm.evaluation.embed import Images
from mae_mm.evaluation.encoder import Encoder
from mae_mm.evaluation.feature_file import FeatureFile
from mae_mm.evaluation.knn import nearest
from mae_mm.visualization.panels import picture_of
from mae_mm.visualization.pictures import data_uri

SIDE = 144  # pixels of the longer side of a picture


def check_gallery(html: str, k: int, queries: Sequence[str], count: int) -> None:
    """Refuse what `count` images cannot answer, before they are embedded."""
    own = asks_for_own(queries)
    if not own and (missing := [query for query in queries if not Path(query).is_file()]):
        raise FileNotFoundError(f'--queries {missing[0]}: no such file; give image files, or one number')
    if own and not 1 <= int(queries[0]) <= count:
        raise ValueError(f'--queries {queries[0]}: choose 1 … {count}, there are {count} images')
    if not 1 <= k <= count - own:
        raise ValueError(f'--neighbours {k}: choose 1 … {count - own}, there are {count} images'
                         + ', and a query is not its own neighbour' * own)
    if Path(html).suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'--html {html} must end with .html')


def write_gallery(
    html: str, encoder: Encoder, images: Images, file: FeatureFile, k: int, queries: Sequence[str], checkpoint: str,
) -> None:
    """Draw the k nearest images of each query.

    Args:
        file: vectors of `images`.
        queries: image files or, as the only one, a number: so many of `images`, evenly spaced in their list.
    """
    options = dict(pool=file.made_by['pool'], blocks=file.made_by['blocks'])
    positions = np.delete(np.arange(len(images)), file.unreadable)  # of the rows of `file`
    check_gallery(html, k, queries, len(positions))
    features = torch.from_numpy(file.read())
    if own := asks_for_own(queries):
        rows = np.linspace(0, len(positions) - 1, int(queries[0])).round().astype(int)
        asked, asked_at, wanted = images, positions[rows], features[rows]
    else:
        rows, asked = np.full(len(queries), -1), Images(queries, encoder)
        asked_at, samples = range(len(asked)), [asked[i] for i in range(len(asked))]
        if bad := [sample for sample in samples if isinstance(sample, str)]:
            raise ValueError(f'--queries: {bad[0]}')
        wanted = torch.cat([encoder.features(sample[None], **options).cpu() for sample in samples])
    similarities, neighbours = (found.tolist() for found in nearest(features, wanted, k + own))
    table = []
    for i, row in enumerate(rows):
        best = [(at, similarity) for at, similarity in zip(neighbours[i], similarities[i], strict=True) if at != row]
        table.append((figure(encoder, asked, asked_at[i]), [
            dict(figure(encoder, images, positions[at]), similarity=similarity) for at, similarity in best[:k]]))
    how = f'{options["pool"]} token of the last {options["blocks"]} blocks' if options['blocks'] > 1 else (
        f'{options["pool"]} token')
    page = Template((Path(__file__).parent / 'gallery.html').read_text(), autoescape=True).render(
        rows=table, side=SIDE, k=k, count=len(positions), checkpoint=checkpoint, features=how, own=own)
    write_beside(html, lambda partial: partial.write_text(page, encoding='utf-8'))


def asks_for_own(queries: Sequence[str]) -> bool:
    """Whether queries are a number of the images themselves."""
    return len(queries) == 1 and queries[0].isdecimal()


def figure(encoder: Encoder, images: Images, index: int) -> dict:
    """Name and picture of an image."""
    array = encoder.load.load(images.source(int(index)))  # (H, W, C) of any C
    picture = Image.fromarray(picture_of(array, encoder.backbone.bands))
    picture.thumbnail((SIDE, SIDE))
    return dict(name=printable(images.name(int(index))), picture=data_uri(picture.save, 'jpeg'))
