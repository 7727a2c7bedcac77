"""What a masked autoencoder sees and what it answers, as a picture."""

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from mae_mm.checkpoint import load_pretrained, read_checkpoint
from mae_mm.datasets.image_folder import find_images
from mae_mm.engine.runner import load_config
from mae_mm.models.masking import SAMPLERS, fixed_noise
from mae_mm.models.patches import grid_of
from mae_mm.registry import MODELS

GUTTER, HEADING, MIN_SIDE = 6, 24, 144  # pixels: between images, above the columns, of the shorter side of an image
HIDDEN = 127  # gray level that stands for a masked patch
OUTLINE = (255, 170, 0)  # RGB of the patch grid in the overlay


def visualize(
    config: str, checkpoint: str, images: Sequence[str], out: str, mask_ratio: float | None = None, seed: int = 0,
    overlay: bool = False, device: str = 'cpu', num: int = 8, cfg_options: dict | None = None,
) -> None:
    """Draw what a checkpoint makes of image files, and write it to `out` (see `tools/visualize.py --help`).

    Raises:
        ValueError: if checkpoint, images or mask ratio do not serve.
        FileNotFoundError: if a file is not there.
    """
    cfg = load_config(config, cfg_options)
    if mask_ratio is not None:
        cfg.model.mask_ratio = mask_ratio
    if cfg.get('val_dataloader') is None:
        raise ValueError(f'{config} has no val_dataloader, whose dataset.pipeline says how images are loaded')
    model = load_model(cfg, checkpoint, device)
    inputs = load_images(cfg.val_dataloader.dataset.pipeline, list_images(images, num))
    panel = reconstruction_panel(model, inputs, seed=seed, overlay=overlay)
    save_png(panel, out)
    print(f'{len(inputs)} images of {inputs.shape[2]}x{inputs.shape[3]} px -> {out}')


def load_model(cfg: Config, checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the pre-training model of a config, with the weights of a checkpoint in any format, ready to predict.

    Raises:
        ValueError: if the checkpoint is no complete masked autoencoder, or not of the model's shape.
    """
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    weights = read_checkpoint(checkpoint)
    if not weights.has_decoder:
        raise ValueError(
            f'{checkpoint} holds an encoder only (no decoder weights), and without a decoder nothing can be '
            'reconstructed; give the file that pre-training wrote, e.g. work_dirs/NAME/epoch_N.pth')
    model = MODELS.build(cfg.model)
    load_pretrained(model, weights)
    return model.to(device).eval()


def list_images(paths: Iterable[str], num: int) -> list[str]:
    """Image files as given, and the first `num` of each folder.

    Raises:
        FileNotFoundError: if a path does not exist or a folder has no image.
        ValueError: if `num` is below 1.
    """
    if num < 1:
        raise ValueError(f'--num {num}: want 1 or more images from each folder')
    files = []
    for path in paths:
        is_folder = os.path.isdir(path)
        found = [os.path.join(path, name) for name in islice(find_images(path), num)] if is_folder else [path]
        if not found or not os.path.exists(found[0]):
            raise FileNotFoundError(f'{path}: {"no such file or folder" if found else "no image in this folder"}')
        files += found
    return files


def load_images(pipeline: Sequence[dict], paths: Sequence[str]) -> Tensor:
    """Run files through a config's validation pipeline: (N, C, H, W) uint8.

    Raises:
        ValueError: if the pipeline makes images of different sizes.
    """
    load = Compose(pipeline)
    imgs = [load(dict(img_path=path, sample_idx=i))['inputs'] for i, path in enumerate(paths)]
    for path, img in zip(paths, imgs, strict=True):
        if img.shape != imgs[0].shape:
            raise ValueError(
                f'{path} becomes {tuple(img.shape)}, {paths[0]} {tuple(imgs[0].shape)} (channels, height, width); a '
                'panel shows images of one size: end the pipeline with mae_mm.LoadResizeCenterCrop, or draw them apart')
    return torch.stack(imgs)


@torch.no_grad()
def reconstruction_panel(
    model: nn.Module, inputs: Tensor, sample_idx: Sequence[int] | None = None, seed: int = 0, overlay: bool = False,
) -> np.ndarray:
    """Mask images, reconstruct them and draw it all. Uses no random generator and leaves the model's mode alone.

    Small images are enlarged by a whole number, each pixel a square. One channel is shown as gray, of more than three
    the first three are shown.

    Args:
        model: `mae_mm.MAE` in evaluation mode, bare or in mmengine's distributed wrappers. Under sharding all ranks
            must call, as in validation.
        inputs: (N, C, H, W) uint8, as the data loader delivers them.
        sample_idx: N numbers that decide the masks together with `seed`; 0, 1, 2 … when absent. Numbers in the
            validation set and seed 0 give the masks of the held-out loss.
        overlay: whether to add a column in which each masked patch is half original, half reconstruction, and
            outlined: sharp where they agree.

    Returns:
        (height, width, 3) uint8 RGB, see `render_panel`.
    """
    core = model.module if is_model_wrapper(model) else model
    patch_size = core.patch_size
    grid = grid_of(tuple(inputs.shape[2:]), patch_size)
    noise = fixed_noise(range(len(inputs)) if sample_idx is None else sample_idx, grid[0] * grid[1], seed)
    samples = model.val_step(dict(inputs=inputs, noise=noise))
    normalised = core.data_preprocessor(dict(inputs=inputs))['inputs']

    scale = max(1, -(-MIN_SIDE // min(inputs.shape[2:])))
    answer = torch.stack([sample['reconstruction'] for sample in samples])
    original, reconstruction = (
        _pixels(core.data_preprocessor.denormalize(imgs), scale) for imgs in (normalised, answer))
    mask = torch.stack([sample['mask'] for sample in samples]).view(-1, *grid)
    hidden = _enlarge(mask.cpu().numpy(), patch_size * scale)[..., None]  # (N, H, W, 1) bool
    columns = {
        'original': original,
        f'{mask.float().mean():.0%} masked': np.where(hidden, np.uint8(HIDDEN), original),
        'reconstruction': reconstruction,
        'with visible': np.where(hidden, reconstruction, original),
    }
    if overlay:
        blend = np.where(hidden, (original.astype(np.uint16) + reconstruction + 1) // 2, original).astype(np.uint8)
        rows, cols = (np.arange(side) % (patch_size * scale) == 0 for side in blend.shape[1:3])
        columns['overlay'] = np.where(hidden & (rows[:, None] | cols)[..., None], np.uint8(OUTLINE), blend)
    return render_panel(columns)


def masks_panel(imgs: Tensor, patch_size: int, seed: int = 0) -> np.ndarray:
    """Draw the masks of the paper's Figure 6 and Table 1f over images.

    Args:
        imgs: (N, C, H, W) uint8.
        patch_size: side in pixels.
        seed: of the masks.

    Returns:
        (height, width, 3) uint8 RGB, see `render_panel`.
    """
    grid = grid_of(tuple(imgs.shape[2:]), patch_size)
    noise = fixed_noise(range(len(imgs)), grid[0] * grid[1], seed)
    scale = max(1, -(-MIN_SIDE // min(imgs.shape[2:])))
    original = _pixels(imgs, scale)
    columns = {'original': original}
    for name, ratio in (('random', 0.75), ('block', 0.5), ('block', 0.75), ('grid', 0.75)):
        mask = SAMPLERS[name](noise, ratio, grid).mask.view(-1, *grid)
        hidden = _enlarge(mask.numpy(), patch_size * scale)[..., None]
        columns[f'{name} {ratio:.0%}'] = np.where(hidden, np.uint8(HIDDEN), original)
    return render_panel(columns)


def _pixels(imgs: Tensor, scale: int) -> np.ndarray:
    """(N, C, H, W) uint8 of any C -> (N, scale * H, scale * W, 3)."""
    imgs = imgs[:, :3] if imgs.shape[1] >= 3 else imgs[:, :1].expand(-1, 3, -1, -1)
    return _enlarge(imgs.permute(0, 2, 3, 1).cpu().numpy(), scale)


def _enlarge(imgs: np.ndarray, scale: int) -> np.ndarray:
    """Make each pixel of (N, H, W, …) a square."""
    return imgs.repeat(scale, 1).repeat(scale, 2)


def render_panel(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Lay images out as a table on white: a row for each image, a column with a heading for each way to see it.

    Args:
        columns: heading -> (N, H, W, 3) uint8 RGB.

    Returns:
        (HEADING + N * (H + GUTTER), GUTTER + len(columns) * (W + GUTTER), 3) uint8 RGB.
    """
    n, height, width, _ = next(iter(columns.values())).shape
    size = (HEADING + n * (height + GUTTER), GUTTER + len(columns) * (width + GUTTER), 3)
    canvas = Image.fromarray(np.full(size, 255, np.uint8))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for i, (heading, imgs) in enumerate(columns.items()):
        left = GUTTER + i * (width + GUTTER)
        draw.text((left + width // 2, HEADING // 2), heading, fill='black', font=font, anchor='mm')
        for row, img in enumerate(imgs):
            canvas.paste(Image.fromarray(img), (left, HEADING + row * (height + GUTTER)))
    return np.array(canvas)


def save_png(panel: np.ndarray, path: str | Path) -> None:
    """Write a (H, W, 3) uint8 RGB image, making the folder where there is none.

    Raises:
        ValueError: if the extension is of no image.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise ValueError(f'{path}: its name tells no kind of image; want e.g. {Path(path).with_suffix(".png")}')
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(panel).save(path)
