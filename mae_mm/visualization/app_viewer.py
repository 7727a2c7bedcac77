"""One checkpoint behind the page of `tools/app.py`: what it shows of an image file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mae_mm.checkpoint.settings import stored_config
from mae_mm.datasets.limits import open_image
from mae_mm.engine.runner import load_config
from mae_mm.evaluation.embed import Images
from mae_mm.evaluation.encoder import Encoder, load_encoder
from mae_mm.evaluation.knn import nearest
from mae_mm.models.patches import grid_of
from mae_mm.visualization.app_masks import BRIGHTEST, error_map, masking_exactly
from mae_mm.visualization.gallery import figure
from mae_mm.visualization.panels import (
    load_images,
    load_model,
    photos_of,
    pipeline_of,
    pixels,
    read_rgb,
    reconstruction_columns,
    scale_of,
)
from mae_mm.visualization.pictures import data_uri, resize, save
from mae_mm.visualization.predict import UNREADABLE, Predictor, build
from mae_mm.visualization.views import shrink, token_views

MAX_SIDE = 1024  # pixels: of larger images, predictions are made of a reduced copy; masks and scores fill the image
PICTURE_SIDE = 480  # pixels of the longer side of predictions
NEIGHBOURS, ROWS, KEPT = 8, 12, 8  # nearest images; rows of a table; images whose pixels are kept, by checkpoint
MISTAKES = (*UNREADABLE, MemoryError)  # of an image


class Features(NamedTuple):
    """A file of `tools/embed.py`."""

    rows: np.ndarray  # (images, D) float32, in memory or mapped
    names: list[str]
    made_by: dict


class Figure(NamedTuple):
    picture: str  # data URI
    caption: str


class Section(NamedTuple):
    """What one checkpoint has to show under one heading."""

    title: str
    text: str = ''
    figures: Sequence[Figure] = ()
    columns: Sequence[str] = ()
    rows: Sequence[tuple] = ()


class Viewer:
    """One checkpoint, loaded for all that it can show; calls change nothing in it.

    Args:
        config: of the checkpoint; needed by classifiers, detectors and segmentors, and by autoencoders whose file does
            not contain theirs.

    Attributes:
        model: the autoencoder, None if the checkpoint is none.
        encoder: None if it has no ViT.
        predictor: of a classifier, detector or segmentor, else None.
        eight_bits: whether it reads 8-bit photographs.
        missing: why there is neither autoencoder nor predictor, or ''.
        features: whose nearest images are shown, or None.
    """

    def __init__(self, checkpoint: str, config: str | None = None, device: str = 'cpu') -> None:
        self.checkpoint, self.missing, self.eight_bits = checkpoint, '', True
        self.model: nn.Module | None = None
        self.encoder: Encoder | None = None
        self.predictor: Predictor | None = None
        self.features: Features | None = None
        try:
            cfg = load_config(config) if config else stored_config(checkpoint)
            if cfg.model.type in ('mae_mm.MAE', 'mae_mm.MaskedConv'):
                self.model, self.pipeline = load_model(cfg, checkpoint, device), pipeline_of(cfg)
            else:
                self.predictor = build(cfg, checkpoint, device, side=PICTURE_SIDE)
                self.eight_bits = cfg.test_dataloader.dataset.pipeline[0].get('dtype', 'uint8') == 'uint8'
        except ValueError as error:
            if config:
                raise
            self.missing = (
                f'Only the encoder is shown: {str(error).partition("; give")[0]}. With its config before it '
                '(mae-mm app CONFIG CHECKPOINT), predictions or reconstructions are shown, too.')
        try:
            self.encoder = load_encoder(checkpoint, device=device)
        except ValueError:
            if not (self.model or self.predictor):
                raise
        self.load = lru_cache(KEPT)(self._load)
        self.load_for_encoder = lru_cache(KEPT)(self._load_for_encoder)

    def _load(self, path: str) -> Tensor:
        return load_images(self.pipeline, [path])

    def _load_for_encoder(self, path: str) -> Tensor:
        return self.encoder.load(dict(img_path=path))['inputs'][None]

    def grid(self, imgs: Tensor) -> tuple[int, int]:
        return grid_of(imgs.shape[2:], self.model.patch_size)

    def reconstruction(self, path: str, choose: Callable[[tuple[int, int]], Tensor]) -> Section:
        """The image under a mask, (1, L) bool, that `choose` makes for a grid."""
        imgs = self.load(path)
        mask = choose(self.grid(imgs))
        model, noise = masking_exactly(self.model, mask)
        columns = reconstruction_columns(model, imgs, noise=noise)
        hidden = pixels(mask.view(1, 1, *self.grid(imgs)), model.patch_size * scale_of(imgs))
        error, mean = error_map(columns['original'], columns['reconstruction'], hidden)
        columns[f'error ({mean:.1f} of 255)'] = error
        del columns['original']  # beside the components
        return Section('Reconstruction', 'The error is that of masked pixels, averaged over the colours: black is '
                       f'none, the brightest yellow {BRIGHTEST} levels or more.', figures_of(columns))

    def views(self, path: str) -> list[Section]:
        """Predictions, principal components and nearest images."""
        parts = []
        if self.predictor:
            columns, predict = self.predictor
            with within(path, MAX_SIDE, self.eight_bits) as file:
                picture, rows = predict(file)
            parts.append(Section('Prediction', figures=figures_of({'prediction': picture[None]}), columns=columns,
                                 rows=rows[:ROWS]))
        if self.encoder:
            imgs = self.load_for_encoder(path)
            photos = shrink(photos_of(imgs, self.encoder.backbone.bands))
            view, = token_views(self.encoder, imgs, photos, {'pca'}, -1, ())
            parts.append(Section(view.title, view.text, figures_of(view.columns)))
            if self.features:
                parts.append(self.neighbours(imgs))
        return [*parts, Section('Note', self.missing)] if self.missing else parts

    def neighbours(self, imgs: Tensor) -> Section:
        """The nearest images in the file of features, pictures of those that are still where they were."""
        rows, names, made_by = self.features
        wanted = self.encoder.features(imgs, made_by['pool'], made_by['blocks']).cpu()
        similarities, positions = nearest(torch.from_numpy(rows), wanted, min(NEIGHBOURS, len(rows)))
        figures = []
        for similarity, position in zip(similarities[0].tolist(), positions[0].tolist(), strict=True):
            picture, missing = '', ''
            try:
                picture = figure(self.encoder, Images([names[position]], self.encoder), 0)['picture']
            except MISTAKES:
                missing = ' (the file is not there, or cannot be read)'
            name = '/'.join(names[position].split('/')[-2:])
            figures.append(Figure(picture, f'{similarity:.3f} {name}{missing}'))
        text = f'Of {len(rows):,} images, by cosine similarity of the {made_by["pool"]} token.'
        return Section('Nearest images', text, figures)

    def use_features(self, path: str, features: Features) -> bool:
        """Whether a file of features is this encoder's; then its images are shown."""
        rows, _, made_by = features
        if self.encoder is None or self.encoder.fingerprint()[:12] != made_by.get('weights'):
            return False
        if rows.ndim != 2:
            raise ValueError(f'--features {path} has the tokens of each image; write it with --pool mean or cls')
        self.features = features
        return True


def stored_size(path: str) -> tuple[int, int]:
    """Width and height of an image file as stored, from its header: nothing is decoded to look for its rotation."""
    with open_image(path) as image:
        return image.size


@contextmanager
def within(path: str, side: int, eight_bits: bool) -> Iterator[str]:
    """An image file of at most `side` pixels a side: a reduced copy of a larger one, which has `eight_bits`."""
    if max(stored_size(path)) <= side:
        yield path
        return
    with open_image(path) as image:
        if not eight_bits or image.mode.startswith(('I', 'F')):  # a copy would lose the others; RGB of 16 bits is 'RGB'
            raise ValueError(f'{path}: predictions of images of more than 8 bits and {side} px: tools/predict.py')
    with TemporaryDirectory() as folder:
        small = Path(folder) / Path(path).with_suffix('.png').name
        save(resize(read_rgb(path), side), small)
        yield str(small)


def png_uri(image: np.ndarray) -> str:
    return data_uri(Image.fromarray(image).save, 'png')


def figures_of(columns: dict[str, np.ndarray]) -> list[Figure]:
    """The first image of each column."""
    return [Figure(png_uri(imgs[0]), heading) for heading, imgs in columns.items()]
