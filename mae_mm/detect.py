"""Boxes and masks of a trained detector drawn into pictures, for mmdet's inferencer."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint
from PIL import Image

from mae_mm import launch
from mae_mm.datasets.limits import open_image
from mae_mm.visualize import list_images

GUTTER = 6  # white pixels between the pictures of a panel
COLUMNS = 4


def detect(
    config: str, checkpoint: str, images: list[str], out: str, num: int = 8, score_thr: float = 0.3, side: int = 0,
    panel: str | None = None, device: str = 'cpu', cfg_options: dict | None = None,
) -> list[Path]:
    """Write one picture for each image, of the same name, and on request one of all of them.

    Args:
        images: files, or folders of which the first `num` images are taken.
        out: folder for the pictures.
        score_thr: detections below are not drawn.
        side: longer side in pixels to which images are brought before drawing (small ones have no room for text);
            0 leaves them as they are. What the detector sees is up to the config.
        panel: file for all pictures in rows of `COLUMNS`.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if config, checkpoint or image is missing.
        ValueError: if the checkpoint is not one of this very detector.
    """
    from mmdet.apis import DetInferencer

    cfg = launch.load_config(config, cfg_options)
    launch.check_readable(checkpoint, 'CHECKPOINT')
    paths = list_images(images, num)
    launch.allow_mmengine_objects()
    inferencer = DetInferencer(cfg, checkpoint, device=device, show_progress=False)
    try:
        load_checkpoint(inferencer.model, checkpoint, map_location='cpu', strict=True)  # the inferencer's is not strict
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} is no checkpoint of {config}: {error}') from error
    Path(out).mkdir(parents=True, exist_ok=True)
    pictures, files = [], []
    for path in paths:
        sample, = inferencer(path, return_datasamples=True, no_save_vis=True)['predictions']
        image = open_image(path).convert('RGB')
        factor = side / max(image.size) if side else 1.0
        image = np.array(image.resize([round(length * factor) for length in image.size], Image.Resampling.BICUBIC))
        enlarge(sample.pred_instances, factor, image.shape[:2])
        inferencer.visualizer.add_datasample(
            'prediction', image, sample, draw_gt=False, show=False, pred_score_thr=score_thr)
        pictures.append(inferencer.visualizer.get_image())
        files.append(Path(out) / Path(path).name)
        Image.fromarray(pictures[-1]).save(files[-1])
    if panel:
        Path(panel).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile(pictures)).save(panel)
        files.append(Path(panel))
    return files


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
