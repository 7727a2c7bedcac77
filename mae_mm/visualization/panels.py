"""What a masked autoencoder sees and what it predicts, as a picture."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mae_mm.checkpoint.contents import read_checkpoint
from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.engine.runner import check_device, load_config
from mae_mm.models.masking import SAMPLERS, fixed_noise
from mae_mm.models.patches import grid_of
from mae_mm.registry import MODELS
from mae_mm.visualization.pictures import check_output, list_images, render, save

MIN_SIDE = 144  # pixels: a shorter side below is enlarged
HIDDEN = 127  # gray level that stands for a masked patch
OUTLINE = (255, 170, 0)  # RGB of the patch grid in the overlay


def visualize(
    config: str, checkpoint: str, images: Sequence[str], out: str, mask_ratio: float | None = None, seed: int = 0,
    overlay: bool = False, device: str = 'cpu', num: int = 8, cfg_options: dict | None = None,
) -> None:
    """Draw what a checkpoint makes of image files, and write it to `out` (see `tools/visualize.py --help`)."""
    check_output(out, images)
    check_device(device)
    cfg = load_config(config, cfg_options)
    if mask_ratio is not None:
        cfg.model.mask_ratio = mask_ratio
    model = load_model(cfg, checkpoint, device)
    inputs = load_images(pipeline_of(cfg), list_images(images, num))
    save(reconstruction_panel(model, inputs, seed=seed, overlay=overlay), out)
    print(f'{len(inputs)} image{"s" * (len(inputs) > 1)} of {inputs.shape[2]}x{inputs.shape[3]} px -> {out}')


def pipeline_of(cfg: Config) -> list[dict]:
    """The validation pipeline of a pre-training config."""
    if cfg.get('val_dataloader') is None:
        raise ValueError(f'{cfg.filename} has no val_dataloader, whose dataset.pipeline defines how images are loaded')
    return cfg.val_dataloader.dataset.pipeline


def load_model(cfg: Config, checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the pre-training model of a config, with the weights of a checkpoint in any format, ready to predict."""
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    model = MODELS.build(cfg.model)
    if cfg.model.type == 'mae_mm.MAE':
        weights = read_checkpoint(checkpoint)
        if not weights.has_decoder:
            raise ValueError(
                f'{checkpoint} holds an encoder only (no decoder weights), and nothing can be reconstructed without a '
                'decoder; use the file that pre-training wrote, e.g. work_dirs/NAME/epoch_N.pth')
        load_pretrained(model, weights)
    else:  # mae_mm.MaskedConv, which other libraries do not have
        load_exactly(model, checkpoint, config=cfg.filename)
    return model.to(device).eval()


def load_images(pipeline: Sequence[dict], paths: Sequence[str]) -> Tensor:
    """Run files through a config's validation pipeline, which must bring them to one size: (N, C, H, W) uint8."""
    load = Compose(pipeline)
    return torch.stack([load(dict(img_path=path, sample_idx=i))['inputs'] for i, path in enumerate(paths)])


@torch.no_grad()
def reconstruction_panel(
    model: nn.Module, inputs: Tensor, sample_idx: Sequence[int] | None = None, seed: int = 0, overlay: bool = False,
) -> np.ndarray:
    """Mask images, reconstruct them and draw everything. Uses no random generator and keeps the model's mode.

    Small images are enlarged by a whole number. One channel is shown as gray, of more than three the first three are.

    Args:
        model: in evaluation mode, bare or in mmengine's distributed wrappers; under sharding all ranks must call.
        inputs: (N, C, H, W) of any type, as the data loader delivers them.
        sample_idx: N numbers that determine the masks together with `seed`; 0, 1, 2 … when None. Numbers in the
            validation set and seed 0 give the masks of the held-out loss.
        overlay: adds a column in which each masked patch is half original, half reconstruction, and outlined.
    """
    core = model.module if is_model_wrapper(model) else model
    grid = grid_of(tuple(inputs.shape[2:]), core.patch_size)
    noise = fixed_noise(range(len(inputs)) if sample_idx is None else sample_idx, grid[0] * grid[1], seed)
    samples = model.val_step(dict(inputs=inputs, noise=noise))
    normalised = core.data_preprocessor(dict(inputs=inputs))['inputs']

    scale = _scale(inputs)
    predicted = torch.stack([sample['reconstruction'] for sample in samples])
    original, reconstruction = (
        _pixels(core.data_preprocessor.denormalize(imgs, inputs.dtype), scale) for imgs in (normalised, predicted))
    mask = torch.stack([sample['mask'] for sample in samples])
    patch = core.patch_size * scale
    hidden = _pixels(mask.view(-1, 1, *grid), patch)
    columns = {
        'original': original,
        f'{mask.float().mean():.0%} masked': np.where(hidden, np.uint8(HIDDEN), original),
        'reconstruction': reconstruction,
        'with visible': np.where(hidden, reconstruction, original),
    }
    if overlay:
        blend = np.where(hidden, (original.astype(np.uint16) + reconstruction + 1) // 2, original).astype(np.uint8)
        rows, cols = (np.arange(side) % patch == 0 for side in blend.shape[1:3])
        columns['overlay'] = np.where(hidden & (rows[:, None] | cols)[..., None], np.uint8(OUTLINE), blend)
    return render(columns)


def masks_panel(imgs: Tensor, patch_size: int, seed: int = 0) -> np.ndarray:
    """Draw the masks of the paper's Figure 6 and Table 1f over (N, C, H, W) uint8 images; returns as `render`."""
    grid, scale = grid_of(tuple(imgs.shape[2:]), patch_size), _scale(imgs)
    noise = fixed_noise(range(len(imgs)), grid[0] * grid[1], seed)
    columns = {'original': _pixels(imgs, scale)}
    for name, ratio in (('random', 0.75), ('block', 0.5), ('block', 0.75), ('grid', 0.75)):
        hidden = _pixels(SAMPLERS[name](noise, ratio, grid).mask.view(-1, 1, *grid), patch_size * scale)
        columns[f'{name} {ratio:.0%}'] = np.where(hidden, np.uint8(HIDDEN), columns['original'])
    return render(columns)


def _scale(imgs: Tensor) -> int:
    """How many times as large (N, C, H, W) images are shown."""
    return max(1, -(-MIN_SIDE // min(imgs.shape[2:])))


def _pixels(imgs: Tensor, scale: int) -> np.ndarray:
    """(N, C, H, W) of any C -> (N, scale * H, scale * W, 3): each pixel becomes a square."""
    colours = imgs[:, :3] if imgs.shape[1] >= 3 else imgs[:, :1].expand(-1, 3, -1, -1)
    return colours.permute(0, 2, 3, 1).cpu().numpy().repeat(scale, 1).repeat(scale, 2)
