"""What a masked autoencoder sees and what it predicts, as a picture."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mae_mm.checkpoint.contents import COLOURS, read_checkpoint
from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.datasets.decode import decode
from mae_mm.datasets.limits import read_file
from mae_mm.datasets.pixels import choose_bands
from mae_mm.datasets.transforms import ReadImage
from mae_mm.models.data_preprocessor import stretch
from mae_mm.models.masking import SAMPLERS, fixed_noise
from mae_mm.models.patches import grid_of
from mae_mm.registry import MODELS
from mae_mm.visualization.pictures import render

MIN_SIDE = 144  # pixels: a shorter side below is enlarged
HIDDEN = 127  # gray level that stands for a masked patch
OUTLINE = (255, 170, 0)  # RGB of the patch grid in the overlay


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


def reconstruction_panel(model: nn.Module, inputs: Tensor, *args: object, **kwargs: object) -> np.ndarray:
    """`reconstruction_columns` of the same arguments, drawn as by `render`."""
    return render(reconstruction_columns(model, inputs, *args, **kwargs))


@torch.no_grad()
def reconstruction_columns(
    model: nn.Module, inputs: Tensor, sample_idx: Sequence[int] | None = None, seed: int = 0, overlay: bool = False,
    bands: Sequence[int | str] | None = None, noise: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Mask images and reconstruct them: by heading, (N, H, W, 3) uint8. Uses no random generator; keeps the mode.

    Args:
        model: in evaluation mode, bare or in mmengine's distributed wrappers; under sharding all ranks must call.
        inputs: (N, C, H, W) of any type, as the data loader delivers them.
        sample_idx: N numbers that determine the masks together with `seed`; 0, 1, 2 … when None. Numbers in the
            validation set and seed 0 give the masks of the held-out loss.
        overlay: adds a column in which each masked patch is half original, half reconstruction, and outlined.
        bands: which are shown, see `shown_bands`.
        noise: (N, L) decides the masks in place of `sample_idx` and `seed`.
    """
    core = model.module if is_model_wrapper(model) else model
    grid = grid_of(tuple(inputs.shape[2:]), core.patch_size)
    if noise is None:
        noise = fixed_noise(range(len(inputs)) if sample_idx is None else sample_idx, grid[0] * grid[1], seed)
    samples = model.val_step(dict(inputs=inputs, noise=noise))
    batch = core.data_preprocessor(dict(inputs=inputs))
    normalised = batch['inputs'].where(batch['valid'], torch.nan) if 'valid' in batch else batch['inputs']

    scale, picks = scale_of(inputs), shown_bands(
        bands, getattr(core.backbone, 'bands', None), inputs.shape[1])
    predicted = torch.stack([sample['reconstruction'] for sample in samples]).where(~normalised.isnan(), torch.nan)
    original, reconstruction = (
        pixels(core.data_preprocessor.denormalize(imgs, inputs.dtype, normalised)[:, picks], scale)
        for imgs in (normalised, predicted))
    mask = torch.stack([sample['mask'] for sample in samples])
    patch = core.patch_size * scale
    hidden = pixels(mask.view(-1, 1, *grid), patch)
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
    return columns


def masks_panel(imgs: Tensor, patch_size: int, seed: int = 0) -> np.ndarray:
    """Draw the masks of the paper's Figure 6 and Table 1f over (N, C, H, W) uint8 images; returns as `render`."""
    grid, scale = grid_of(tuple(imgs.shape[2:]), patch_size), scale_of(imgs)
    noise = fixed_noise(range(len(imgs)), grid[0] * grid[1], seed)
    columns = {'original': pixels(imgs, scale)}
    for name, ratio in (('random', 0.75), ('block', 0.5), ('block', 0.75), ('grid', 0.75)):
        hidden = pixels(SAMPLERS[name](noise, ratio, grid).mask.view(-1, 1, *grid), patch_size * scale)
        columns[f'{name} {ratio:.0%}'] = np.where(hidden, np.uint8(HIDDEN), columns['original'])
    return render(columns)


def scale_of(imgs: Tensor) -> int:
    """How many times as large (N, C, H, W) images are shown: small ones are enlarged, by a whole number."""
    return max(1, -(-MIN_SIDE // min(imgs.shape[2:])))


def shown_bands(bands: Sequence[int | str] | None, names: Sequence[str] | None, count: int) -> list[int]:
    """Positions of the channels that stand for red, green and blue, or of one that is shown as gray.

    Args:
        bands: one or three, numbers from 1 or names; by default red, green and blue where the channels have these
            names, else the first three, of fewer the first.
        names: of the channels, if a model has them (`ViT.bands`).
        count: channels of the images.
    """
    names = names or ()
    if bands is None:
        bands = COLOURS if set(COLOURS) <= set(names) else (1, 2, 3) if count >= 3 else (1, )
    if len(bands) not in (1, 3):
        raise ValueError(f'{len(bands)} bands to show, {", ".join(map(str, bands))}: give one, or red, green and blue')
    return choose_bands(tuple(bands), count, names)


def as_photos(imgs: Tensor, picks: Sequence[int]) -> Tensor:
    """Some channels of images of any type, to look at: (N, C, H, W) -> (N, 1 or 3, H, W) uint8, see `stretch`."""
    return (imgs if imgs.dtype == torch.uint8 else stretch(imgs))[:, picks]


def photos_of(
    imgs: Tensor, names: Sequence[str] | None = None, bands: Sequence[int | str] | None = None,
) -> np.ndarray:
    """Images as they are loaded, (N, C, H, W) of any type, to look at: (N, height, width, 3); see `shown_bands`."""
    return pixels(as_photos(imgs, shown_bands(bands, names, imgs.shape[1])), scale_of(imgs))


def picture_of(img: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """An image of any type and bands, (H, W, C), NaN for no data, to look at: (H, W, 3) uint8 RGB."""
    imgs = torch.from_numpy(img[None]).permute(0, 3, 1, 2)
    return pixels(as_photos(imgs, shown_bands(None, names, img.shape[2])), 1)[0]


def picture_at(path: str, load: Compose, names: Sequence[str] | None = None) -> np.ndarray:
    """The image to draw on, read as the pipeline reads it if that is ours: (H, W, 3) uint8 RGB."""
    first = load.transforms[0]
    return picture_of(first.load(dict(img_path=path)), names) if isinstance(first, ReadImage) else read_rgb(path)


def read_rgb(path: str) -> np.ndarray:
    """The image to draw on, upright, (H, W, 3) uint8 RGB; of more than three channels the first three."""
    image = decode(read_file(path), 'unchanged' if path.endswith('.npy') else 'rgb')
    return picture_of(image.permute(1, 2, 0).numpy())


def pixels(imgs: Tensor, scale: int) -> np.ndarray:
    """(N, 3 or 1, H, W) -> (N, scale * H, scale * W, 3): each pixel becomes a square, one channel gray."""
    colours = imgs.expand(-1, 3, -1, -1)
    return colours.permute(0, 2, 3, 1).cpu().numpy().repeat(scale, 1).repeat(scale, 2)
