"""What a segmentor sees in images: its classes as colours over them, beside the truth where there is one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from PIL import Image
from torch import nn

from mae_mm.checkpoint import allow_mmengine_objects
from mae_mm.datasets.checks.label_maps import read_labels
from mae_mm.datasets.limits import open_image
from mae_mm.engine.runner import check_readable, load_config
from mae_mm.visualization.panels import list_images, render_panel, save_png

SIDE = 240  # pixels of the longer side of an image in the panel


def draw_overlays(
    config: str, checkpoint: str, images: Sequence[str], out: str, num: int = 4, opacity: float = 0.6,
    device: str = 'cpu',
) -> None:
    """Draw what a segmentor sees in image files, and write it to `out` (see `tools/segment.py --help`).

    Raises:
        ValueError: if the checkpoint is not of the config's model.
        FileNotFoundError: if a file is not there.
    """
    check_readable(checkpoint, 'CHECKPOINT')
    cfg, paths = load_config(config), list_images(images, num)
    init_default_scope('mmseg')
    from mmseg.registry import DATASETS

    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'lazy_init': True})
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    columns, model = {'image': [], 'truth': [], 'prediction': []}, load_segmentor(cfg, checkpoint, device)
    for path in paths:
        image = np.array(open_image(path).convert('RGB'))
        truth = true_labels(dataset, path)
        columns['image'].append(fit(image))
        columns['prediction'].append(fit(overlay(image, segment(model, cfg, path), palette, opacity)))
        if truth is not None:
            columns['truth'].append(fit(overlay(image, truth, palette, opacity)))
    complete = {heading: np.stack(column) for heading, column in columns.items() if len(column) == len(paths)}
    save_png(render_panel(complete), out)
    print(f'{len(paths)} images -> {out}')


def load_segmentor(cfg: Config, checkpoint: str, device: str = 'cpu') -> nn.Module:
    """The segmentor of a config with all weights of a checkpoint, ready to predict.

    Raises:
        ValueError: if any weight is missing, left over or of another shape.
    """
    from mmseg.registry import MODELS

    allow_mmengine_objects()
    model = MODELS.build(cfg.model)
    try:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} is no checkpoint of {cfg.filename}: {error}') from error
    return model.to(device).eval()


@torch.no_grad()
def segment(model: nn.Module, cfg: Config, path: str) -> np.ndarray:
    """Classes of every pixel of an image file, in its own size: (H, W) int64."""
    load = Compose([step for step in cfg.test_dataloader.dataset.pipeline if step.type != 'LoadAnnotations'])
    result, = model.test_step(pseudo_collate([load(dict(img_path=path))]))
    return result.pred_sem_seg.data[0].cpu().numpy()


def true_labels(dataset: BaseDataset, path: str) -> np.ndarray | None:
    """Labels of an image of this mmseg data set, (H, W) int, 255 = unlabelled; None of other images."""
    folder, image = Path(dataset.data_prefix['img_path']).resolve(), Path(path).resolve()
    if not image.is_relative_to(folder):
        return None
    name = str(image.relative_to(folder)).removesuffix(dataset.img_suffix) + dataset.seg_map_suffix
    values = np.array(open_image(Path(dataset.data_prefix['seg_map_path']) / name))
    return read_labels(dataset.metainfo['reduce_zero_label'], dataset.metainfo['label_map'])[values]


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float) -> np.ndarray:
    """Colours of the classes over an image; unlabelled pixels stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int; 255 = unlabelled.
        palette: (classes, 3) uint8 RGB.
        opacity: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    known = labels < len(palette)
    colours = palette[np.where(known, labels, 0)]
    weight = opacity * known[..., None]
    return np.rint(image * (1 - weight) + colours * weight).astype(np.uint8)


def fit(image: np.ndarray) -> np.ndarray:
    """Enlarge or shrink (H, W, 3) uint8 to a white square of `SIDE` pixels."""
    height, width = image.shape[:2]
    factor = SIDE / max(height, width)
    inside = Image.fromarray(image).resize((max(1, round(width * factor)), max(1, round(height * factor))))
    square = Image.new('RGB', (SIDE, SIDE), 'white')
    square.paste(inside, ((SIDE - inside.width) // 2, (SIDE - inside.height) // 2))
    return np.array(square)
