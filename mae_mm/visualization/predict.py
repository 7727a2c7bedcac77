"""Predictions for image files with any trained model, as pictures and as a table."""

import csv
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose, default_collate, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, FUNCTIONS, MODELS, VISUALIZERS, Registry, init_default_scope
from PIL import Image
from torch import nn
from tqdm import tqdm

from mae_mm.checkpoint.exact import load_exactly
from mae_mm.datasets.checks.label_maps import read_labels
from mae_mm.datasets.limits import open_image
from mae_mm.datasets.pixel_files import SLIDES, extensions_of
from mae_mm.datasets.pixels import Reading
from mae_mm.engine.runner import check_device, load_config
from mae_mm.visualization.large import NODATA, Classes, Windows, segment
from mae_mm.visualization.panels import (
    load_images,
    load_model,
    picture_at,
    picture_of,
    pipeline_of,
    reconstruction_panel,
)
from mae_mm.visualization.pictures import caption, check_output, list_images, render, resize, save, tile

TABLE = 'predictions.csv'
OPACITY = 0.6  # of the colours of classes
PREVIEW = 1000  # pixels of the longer side of a large image in its picture
TIFF = ('.tif', '.tiff')
UNREADABLE = (OSError, ValueError, AssertionError, RuntimeError, cv2.error)  # of a reader or a model

# Columns of the table, after the image's, () without a table; image file -> picture (H, W, 3) uint8 RGB, rows.
Predictor = tuple[tuple[str, ...], Callable[[str], tuple[np.ndarray, list[tuple]]]]


def predict(
    config: str, checkpoint: str, images: Sequence[str], out: str, panel: str | None = None, device: str = 'cpu',
    cfg_options: dict | None = None, num: int = 8, tiles: int | None = None, overlap: float = 0.25,
    batch_size: int = 8, **options: float,
) -> tuple[list[Path], list[str]]:
    """Write a picture of the same name for each image, one table for all and, on request, one panel of all pictures.

    With `tiles` also a GeoTIFF of classes. `tools/predict.py --help` describes the arguments; `options` are `top_k`,
    `score_thr` and `side`. Returns the files that were written, and 'IMAGE: reason' for each image that cannot be read
    or predicted.
    """
    check_device(device)
    cfg = load_config(config, cfg_options)
    first = (cfg.test_dataloader.dataset.pipeline if cfg.get('test_dataloader') else pipeline_of(cfg))[0]
    extensions = extensions_of(first.get('dtype', 'uint8')) + (() if tiles is None else SLIDES)
    paths = list(dict.fromkeys(list_images(images, num, extensions)))
    names, maps = [Path(out) / name for name in picture_names(paths)], {}
    if tiles is not None:
        inside = [Path(out) / name for name in names_inside(paths)]
        maps = {path: name if name.suffix.lower() in TIFF else Path(f'{name}.tif')
                for path, name in zip(paths, inside, strict=True)}
        names = [Path(f'{name}.png') for name in maps.values()]
        options['large'] = windows_of(cfg, tiles, overlap, batch_size), maps
    for file in [*names, *maps.values(), *([panel] if panel else [])]:
        check_output(file, [*images, *paths])
    columns, predict_image = build(cfg, checkpoint, device, **options)
    pictures, rows, files, skipped = [], [], [], []
    for path, name in zip(tqdm(paths, 'images', delay=2), names, strict=True):
        try:
            picture, found = predict_image(path)
        except UNREADABLE as error:
            skipped.append(f'{path}: {str(error).strip() or type(error).__name__}')
            continue
        save(picture, name)
        files += [maps[path], name] if maps else [name]
        rows += [(path, *row) for row in found]
        pictures += [picture] if panel else []
    if columns and files:
        files.append(Path(out) / TABLE)
        with open(files[-1], 'w', newline='') as file:
            csv.writer(file).writerows([('image', *columns), *rows])
    if pictures:
        save(tile(pictures), panel)
        files.append(Path(panel))
    return files, skipped


def build(
    cfg: Config, checkpoint: str, device: str = 'cpu', top_k: int = 5, score_thr: float = 0.3, side: int = 0,
    large: tuple[Windows, dict[str, Path]] | None = None,
) -> Predictor:
    """The predictor of a config's task, with all weights of a checkpoint; `large`: see `large_segmentor`."""
    if large and cfg.get('default_scope') != 'mmseg':
        raise ValueError(f'--tiles is for segmentation, and {cfg.filename} trains {cfg.model.type}; leave it out')
    if cfg.model.type in ('mae_mm.MAE', 'mae_mm.MaskedConv'):
        model, pipeline = load_model(cfg, checkpoint, device), pipeline_of(cfg)
        return (), lambda path: (reconstruction_panel(model, load_images(pipeline, [path])), [])
    if any(step.type == 'TestTimeAug' for step in cfg.test_dataloader.dataset.pipeline):
        raise ValueError(f'{cfg.filename} uses TestTimeAug, which predictions do not support; use its base config')
    scope = cfg.get('default_scope') or 'mmpretrain'
    init_default_scope(scope)
    if scope not in FUNCTIONS.children:  # mmengine warns at length that a host has none, when it looks for a collate_fn
        Registry('function', parent=FUNCTIONS, scope=scope)
    if 'visualizer' in cfg:
        cfg.visualizer.vis_backends = None  # they store pictures in a work folder
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that the inferencers load no weights
        if scope == 'mmdet':
            return detector(cfg, checkpoint, device, side, score_thr)
        if scope == 'mmseg':
            return large_segmentor(cfg, checkpoint, device, side, *large) if large else (
                segmentor(cfg, checkpoint, device, side))
        return classifier(cfg, checkpoint, device, side, top_k)


def classifier(cfg: Config, checkpoint: str, device: str, side: int, top_k: int) -> Predictor:
    """The most probable classes, below the image."""
    from mmpretrain.apis import get_model

    model = get_model(cfg, device=device)
    names = load_weights(model, checkpoint, cfg)
    load, bands = Compose(cfg.test_dataloader.dataset.pipeline), band_names(cfg)

    @torch.no_grad()
    def predict(path: str) -> tuple[np.ndarray, list[tuple]]:
        image = resize(picture_at(path, load, bands), side)
        sample, = model.test_step(default_collate([load(dict(img_path=path))]))
        scores, labels = sample.pred_score.float().cpu().topk(min(top_k, len(sample.pred_score)))
        found = [(names[label] if names else label, score)
                 for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]
        rows = [(rank, name, f'{score:.4f}') for rank, (name, score) in enumerate(found, 1)]
        return caption(image, [f'{score:.1%} {name}' for name, score in found]), rows

    return ('rank', 'class', 'score'), predict


def detector(cfg: Config, checkpoint: str, device: str, side: int, score_thr: float) -> Predictor:
    """Boxes and masks with a score of at least `score_thr`, drawn into the image."""
    model, dataset = model_of(cfg, device)
    names, load = load_weights(model, checkpoint, cfg), loader_of(cfg)
    visualizer = VISUALIZERS.build(cfg.visualizer)
    visualizer.dataset_meta = dict(classes=names, palette=dataset.metainfo.get('palette', 'random'))

    @torch.no_grad()
    def predict(path: str) -> tuple[np.ndarray, list[tuple]]:
        image, sample = load(path)
        sample = model.test_step(pseudo_collate([sample]))[0].cpu()
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        rows = [(names[label], f'{score:.4f}', *(f'{x:.1f}' for x in box)) for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True)]
        picture = resize(image, side)
        found.bboxes *= max(picture.shape[:2]) / max(image.shape[:2])
        if 'masks' in found and picture.shape != image.shape:
            masks = torch.as_tensor(found.masks)[:, None].float()  # with instances as the batch, which may be empty
            found.masks = F.interpolate(masks, picture.shape[:2], mode='nearest')[:, 0].bool()
        sample.pred_instances = found
        visualizer.add_datasample('', picture, sample, draw_gt=False, show=False, pred_score_thr=0)
        return visualizer.get_image(), rows

    return ('class', 'score', 'left', 'top', 'right', 'bottom'), predict


def model_of(cfg: Config, device: str) -> tuple[nn.Module, BaseDataset]:
    """A detector or segmentor to predict with, and the test data set, whose files are not looked for."""
    cfg.model.backbone.init_cfg = None
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).eval()
    return model, DATASETS.build({**cfg.test_dataloader.dataset, 'lazy_init': True})


def loader_of(cfg: Config) -> Callable[[str], tuple[np.ndarray, dict]]:
    """From a file to the image to draw on, and to the sample that the config's test pipeline makes of it."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if not step.type.endswith('LoadAnnotations')]
    own = steps[0].type.startswith('mae_mm.Load')
    load, names = Compose(steps if own else [dict(type='LoadImageFromNDArray'), *steps[1:]]), band_names(cfg)

    def load_file(path: str) -> tuple[np.ndarray, dict]:
        image = picture_at(path, load, names)
        return image, load(dict(img_path=path) if own else dict(img=image[..., ::-1].copy()))

    return load_file


def segmentor(cfg: Config, checkpoint: str, device: str, side: int) -> Predictor:
    """The class of each pixel as a colour over the image, beside the truth for images of the test data set."""
    model, dataset = model_of(cfg, device)
    classes, load = classes_of(model, dataset, checkpoint, cfg), loader_of(cfg)

    @torch.no_grad()
    def predict(path: str) -> tuple[np.ndarray, list[tuple]]:
        image, sample = load(path)
        labels = model.test_step(pseudo_collate([sample]))[0].pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        columns = dict(image=resize(image, side)[None])
        for heading, view in dict(truth=true_labels(dataset, path), prediction=labels).items():
            if view is not None:
                columns[heading] = overlay(columns['image'], resize(view, side, smooth=False)[None], classes.palette)
        return render(columns), shares(np.bincount(labels.ravel(), minlength=len(classes.names)), classes.names)

    return ('class', 'share of the pixels'), predict


def classes_of(model: nn.Module, dataset: BaseDataset, checkpoint: str, cfg: Config) -> Classes:
    """Load all weights of a segmentor, and return names and colours of its classes."""
    names = load_weights(model, checkpoint, cfg, dataset.metainfo['classes'])
    return Classes(names, np.array(dataset.metainfo['palette'], np.uint8))


def shares(counts: np.ndarray, names: Sequence[str]) -> list[tuple]:
    """The rows of a table: classes, the most frequent ones first."""
    share = counts / max(counts.sum(), 1)
    return [(names[label], f'{share[label]:.4f}') for label in np.argsort(-share, kind='stable') if share[label]]


def large_segmentor(
    cfg: Config, checkpoint: str, device: str, side: int, windows: Windows, maps: dict[str, Path],
) -> Predictor:
    """As `segmentor`, of images of any size in their own resolution; the classes are written to the file in `maps`."""
    model, dataset = model_of(cfg, device)
    classes = classes_of(model, dataset, checkpoint, cfg)
    if len(classes.names) > NODATA:
        raise ValueError(f'{len(classes.names)} classes, and --tiles writes maps of {NODATA} at most')
    first, *steps = cfg.test_dataloader.dataset.pipeline
    if others := [step.type for step in steps if step.type not in ('Resize', 'LoadAnnotations', 'PackSegInputs')]:
        raise ValueError(f'{cfg.filename}: --tiles cannot apply {others[0]} of the test pipeline to windows')
    own = first.type.startswith('mae_mm.Load')
    load = Compose([first]).transforms[0] if own else None
    reading, channels = (load.reading, load.channels) if own else (Reading('keep'), 'rgb')

    def predict(path: str) -> tuple[np.ndarray, list[tuple]]:
        img = reading.open(os.path.abspath(path), channels, path)
        if not own and img.stored.dtype != np.uint8:
            raise ValueError(f'pixels of {img.stored.dtype}, and {cfg.filename} reads photographs of 8 bits')
        pixels, labels, counts = segment(model, img, not own, windows, classes, maps[path], side or PREVIEW)
        image = picture_of(pixels, band_names(cfg))[None]
        columns = dict(image=image, prediction=overlay(image, labels[None], classes.palette))
        return render(columns), shares(counts, classes.names)

    return ('class', 'share of the pixels'), predict


def windows_of(cfg: Config, tiles: int, overlap: float, batch_size: int) -> Windows:
    """Windows of `tiles` pixels; 0 takes those of the config: of the sliding test, else of the training."""
    if tiles < 0 or not 0 <= overlap < 1 or batch_size < 1:
        raise ValueError(f'--tiles {tiles} --overlap {overlap} --batch-size {batch_size}: must be pixels, a share of '
                         'a tile in [0, 1), and at least 1')
    preprocessor = cfg.model.get('data_preprocessor') or {}
    size = (cfg.model.get('test_cfg') or {}).get('crop_size') or preprocessor.get('size') or (
        preprocessor.get('host') or {}).get('size') or (512, 512)
    return Windows(tiles or max(size), overlap, batch_size)


def load_weights(model: nn.Module, checkpoint: str, cfg: Config, classes: Sequence[str] = ()) -> list[str]:
    """Load all weights, and return the names of the classes: the checkpoint's, else `classes` or the config's."""
    dataset = cfg.test_dataloader.dataset
    classes = list(classes or (dataset.get('metainfo') or {}).get('classes') or ())
    content = load_exactly(model, checkpoint, classes=classes, config=cfg.filename)
    meta = (content.get('meta') or {}).get('dataset_meta') or {}
    return list(meta.get('classes') or classes)


def band_names(cfg: Config) -> Sequence[str]:
    """Names of the channels of a config's encoder, if it has any."""
    in_chans = (cfg.model.get('backbone') or {}).get('in_chans', 0)
    return () if isinstance(in_chans, int) else in_chans


def true_labels(dataset: BaseDataset, path: str) -> np.ndarray | None:
    """Labels of an image of this mmseg data set, (H, W) uint8, 255 = unlabelled; None for other images."""
    folder, image = Path(dataset.data_prefix['img_path']).resolve(), Path(path).resolve()
    name = image.name.removesuffix(dataset.img_suffix) + dataset.seg_map_suffix
    label_map = Path(dataset.data_prefix.get('seg_map_path') or '') / os.path.relpath(image.parent, folder) / name
    if not image.is_relative_to(folder) or not label_map.is_file():
        return None
    values = np.array(open_image(label_map))
    return read_labels(dataset.metainfo['reduce_zero_label'], dataset.metainfo['label_map'])[values].astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours of the classes, `palette` (classes, 3), over an image (…, 3), all uint8 RGB, by `labels` (…).

    Unlabelled pixels (255) stay as they are.
    """
    known = labels < len(palette)
    weight = OPACITY * known[..., None]
    return np.rint(image * (1 - weight) + palette[np.where(known, labels, 0)] * weight).astype(np.uint8)


def names_inside(paths: Sequence[str]) -> list[Path]:
    """The paths below the folder that all have in common."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Path(os.path.relpath(path, common)) for path in paths]


def picture_names(paths: Sequence[str]) -> list[Path]:
    """`names_inside`; '.png' is added to others than pictures'."""
    kept = Image.registered_extensions().keys() - {*TIFF}  # a picture called .tif would pass for a map of classes
    return [name if name.suffix.lower() in kept else Path(f'{name}.png') for name in names_inside(paths)]
