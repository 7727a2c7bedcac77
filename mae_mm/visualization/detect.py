"""Boxes and masks of a trained detector drawn into pictures, for mmdet's inferencer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from PIL import Image
from torch import nn

from mae_mm.checkpoint.exact import explain_mismatch
from mae_mm.datasets.checks import coco
from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.image_folder import find_images
from mae_mm.datasets.limits import read_file
from mae_mm.engine import runner as launch
from mae_mm.visualization.panels import list_images

GUTTER = 6  # white pixels between the pictures of a panel
COLUMNS = 4


class Drawn(NamedTuple):
    """What `detect` did."""

    files: list[Path]  # written
    skipped: list[str]  # 'IMAGE: reason' for those that could not be drawn
    notes: list[str]  # on images that were not asked for


class ExactInferencer(DetInferencer):
    """mmdet's, which takes a checkpoint of this very detector alone; mmdet's own starts with what fits of any."""

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        try:
            _load_checkpoint_to_model(model, checkpoint, strict=True)
        except RuntimeError as error:
            dataset = next(coco.coco_datasets(cfg.test_dataloader.dataset), None)
            names = coco.class_names(dataset) if dataset else None
            raise ValueError(explain_mismatch(checkpoint, names, str(error))) from error
        super()._load_weights_to_model(model, checkpoint, cfg)


def detect(
    config: str, checkpoint: str, images: list[str], out: str, num: int = 8, score_thr: float = 0.3, side: int = 0,
    panel: str | None = None, device: str = 'cpu', cfg_options: dict | None = None,
) -> Drawn:
    """Write one picture for each image, of the same name, and on request one of all of them.

    Detector and picture have the same pixels, upright. An image that cannot be read or drawn is skipped.

    Args:
        images: files, or folders of which the first `num` images are taken.
        out: folder for the pictures, outside the folders of the images.
        score_thr: detections below are not drawn.
        side: longer side in pixels to which images are brought before drawing (small ones have no room for text);
            0 leaves them as they are. What the detector sees is up to the config.
        panel: file for all pictures in rows of `COLUMNS`.

    Raises:
        FileNotFoundError: if config, checkpoint or image is missing.
        ValueError: if the checkpoint is not one of this very detector, an image would be written over, or a number is
            out of range.
    """
    if num < 1:
        raise ValueError(f'--num must be 1 or more, and is {num}')
    if side < 0:
        raise ValueError(f'--side must be 0 (as the image) or more pixels, and is {side}')
    cfg = launch.load_config(config, cfg_options)
    launch.check_readable(checkpoint, 'CHECKPOINT')
    paths = list(dict.fromkeys(list_images(images, num)))
    check_out(Path(out), panel, images, paths)
    launch.allow_mmengine_objects()
    try:
        inferencer = ExactInferencer(cfg, checkpoint, device=device, show_progress=False)
    except ValueError as error:
        raise ValueError(f'{checkpoint} is no checkpoint of {config}: {error}') from error
    pictures, files, skipped = [], [], []
    for path, name in zip(paths, picture_names(paths), strict=True):
        try:
            picture = draw(inferencer, path, score_thr, side)
        except (DecodeError, OSError, ValueError, AssertionError, cv2.error) as error:  # or too odd a shape to resize
            skipped.append(f'{path}: {str(error).strip() or type(error).__name__}')
            continue
        pictures.append(picture)
        files.append(Path(out) / name)
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(files[-1])
    if panel and pictures:
        Path(panel).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile(pictures)).save(panel)
        files.append(Path(panel))
    counts = {folder: sum(1 for _ in find_images(folder)) for folder in images if os.path.isdir(folder)}
    notes = [f'{folder}: the first {num} of {count} images; --num N for more'
             for folder, count in counts.items() if count > num]
    return Drawn(files, skipped, notes)


def check_out(out: Path, panel: str | None, images: Sequence[str], paths: Sequence[str]) -> None:
    """Refuse to write over the images, or among them, where the next run would take pictures for images.

    Raises:
        ValueError: naming the folder.
    """
    folders = {Path(path).resolve() if os.path.isdir(path) else Path(path).resolve().parent for path in images}
    folders |= {Path(path).resolve().parent for path in paths}
    inside = [folder for folder in folders if folder == out.resolve()]
    inside += [Path(path) for path in images if os.path.isdir(path) and Path(path).resolve() in out.resolve().parents]
    if inside:
        raise ValueError(
            f'--out {out} is in {inside[0]}, a folder of the images, which would be written over or taken for images '
            'next time; name another')
    if panel and Path(panel).resolve() in {Path(path).resolve() for path in paths}:
        raise ValueError(f'--panel {panel} is one of the images, which would be written over; name another')


def picture_names(paths: Sequence[str]) -> list[Path]:
    """The images' names; where two are equal, their paths below the folder that all have in common."""
    names = [Path(path).name for path in paths]
    if len({name.lower() for name in names}) == len(names):
        return [Path(name) for name in names]
    absolute = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [Path(os.path.relpath(path, common)) for path in absolute]


def draw(inferencer: DetInferencer, path: str, score_thr: float, side: int) -> np.ndarray:
    """An image with what is found in it, (H, W, 3) uint8 RGB.

    Raises:
        Exception: of any type, if the file cannot be read, or the config's pipeline makes nothing of it.
    """
    image = np.ascontiguousarray(decode(read_file(path)).permute(1, 2, 0).numpy())  # upright, as EXIF says
    bgr = np.ascontiguousarray(image[..., ::-1])  # as mmcv reads files
    sample, = inferencer(bgr, return_datasamples=True, no_save_vis=True)['predictions']
    height, width = image.shape[:2]
    factor = side / max(height, width) if side else 1.0
    size = [max(1, round(length * factor)) for length in (width, height)]
    image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    enlarge(sample.pred_instances, factor, image.shape[:2])
    inferencer.visualizer.add_datasample(
        'prediction', image, sample, draw_gt=False, show=False, pred_score_thr=score_thr)
    return inferencer.visualizer.get_image()


def enlarge(instances: object, factor: float, shape: tuple[int, int]) -> None:
    """Bring predicted boxes and masks (mmengine's InstanceData) to a picture of `shape`, `factor` times as large."""
    instances.bboxes = instances.bboxes.cpu() * factor
    if 'masks' in instances and factor != 1:
        masks = torch.as_tensor(instances.masks).cpu()
        instances.masks = F.interpolate(masks[None].float(), shape, mode='nearest')[0].bool()


def tile(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of any size, (H, W, 3) uint8 RGB, centred in equal cells on white, in rows of `COLUMNS`."""
    height, width = (max(picture.shape[axis] for picture in pictures) + GUTTER for axis in (0, 1))
    rows = -(-len(pictures) // COLUMNS)
    canvas = np.full((rows * height + GUTTER, min(len(pictures), COLUMNS) * width + GUTTER, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        top = GUTTER + i // COLUMNS * height + (height - GUTTER - h) // 2
        left = GUTTER + i % COLUMNS * width + (width - GUTTER - w) // 2
        canvas[top:top + h, left:left + w] = picture
    return canvas
