"""What a checkpoint sees in images, as one picture or one page: reconstructions, components, attention, neighbours."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from mae_mm.checkpoint.settings import READING, stored_config
from mae_mm.datasets.pixel_files import extensions_of
from mae_mm.engine.runner import check_device, load_config
from mae_mm.evaluation.encoder import Encoder, load_encoder
from mae_mm.models.patches import grid_of
from mae_mm.visualization.page import Clickable, View, write_page
from mae_mm.visualization.panels import load_images, load_model, photos_of, pipeline_of, reconstruction_columns
from mae_mm.visualization.pictures import check_output, image_format, list_images, render, resize, save
from mae_mm.visualization.tokens import attention_maps, pca_colours, similarities

COLOUR_MAP = np.rint(255 * matplotlib.colormaps['inferno'](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
OPACITY = 0.65  # of a heat map over its image
MAX_SIDE = 448  # pixels: larger images are shrunk where tokens are shown
DEFAULT_PATCHES = 4  # the centres of so many images are compared if no patch is given
BATCH = 8  # images


class Patch(NamedTuple):
    image: int  # from 0
    row: int  # of the grid
    col: int


class Scene(NamedTuple):
    """N images with an encoder that looks at them."""

    encoder: Encoder
    imgs: Tensor  # (N, C, H, W), as they are loaded
    photos: np.ndarray  # (N, height, width, 3) uint8: the same as they are shown
    grid: tuple[int, int]  # rows and columns of their patches
    block: int


def visualize(
    checkpoint: str, images: Sequence[str], out: str, what: Sequence[str] = ('reconstruction', ),
    config: str | None = None, size: Sequence[int] | None = None, block: int = -1, patch: Sequence[str] = (),
    mask_ratio: float | None = None, seed: int = 0, overlay: bool = False, device: str = 'cpu', num: int = 8,
    cfg_options: dict | None = None, bands: Sequence[int | str] | None = None,
) -> None:
    """Draw what a checkpoint makes of image files, and write it to `out` (see `tools/visualize.py --help`)."""
    check_output(out, images)
    check_device(device)
    as_page = Path(out).suffix.lower() in ('.html', '.htm')
    if not as_page:
        image_format(out)
    if checkpoint.endswith('.py'):
        raise ValueError(
            f'{checkpoint} is a config, not a checkpoint: python tools/visualize.py CHECKPOINT IMAGE… --config CONFIG')
    if size is not None and len(size) > 2:
        raise ValueError(f'--size must be one number, or height and width, got {size}')
    if patch and 'neighbours' not in what:
        raise ValueError(f'--patch {patch[0]} needs --what neighbours')
    size = size and (size[0], size[-1])
    views, model = [], None
    if 'reconstruction' in what:
        cfg = load_config(config, cfg_options) if config else stored_config(checkpoint)
        if mask_ratio is not None:
            cfg.model.mask_ratio = mask_ratio
        model = load_model(cfg, checkpoint, device)
    if tokens := set(what) - {'reconstruction'}:
        encoder = load_encoder(checkpoint, size, device)
    dtype = pipeline_of(cfg)[0].get('dtype', 'uint8') if model else encoder.load.reading.dtype
    paths = list_images(images, num, extensions_of(dtype))
    imgs = load_images(resized(pipeline_of(cfg), size) if model else [encoder.load], paths)
    if model:
        views.append(reconstruction_view(reconstruction_columns(model, imgs, seed=seed, overlay=overlay, bands=bands)))
        photos = views[0].columns['original']
    else:
        photos = photos_of(imgs, encoder.backbone.bands, bands)
    if tokens:
        photos = shrink(photos)
        views = [view._replace(columns={name: shrink(cells) for name, cells in view.columns.items()}) for view in views]
        views += token_views(encoder, imgs, photos, tokens, block, patch)
    if as_page:
        write_page(out, checkpoint, views, paths, tuple(imgs.shape[2:]), photos)
    else:
        save(render({name: cells for view in views for name, cells in view.columns.items()}), out)
    print(f'{len(imgs)} image{"s" * (len(imgs) > 1)} of {imgs.shape[2]}x{imgs.shape[3]} px -> {out}')


def resized(pipeline: Sequence[dict], size: tuple[int, int] | None) -> Sequence[dict]:
    """A pipeline for images of another size (height, width), read in the same way; None keeps the pipeline."""
    kept = {key: step[key] for step in pipeline for key in READING if key in step}
    return [dict(type='mae_mm.LoadResizeCenterCrop', size=size, **kept)] if size else pipeline


def token_views(
    encoder: Encoder, imgs: Tensor, photos: np.ndarray, what: set[str], block: int, patches: Sequence[str],
) -> list[View]:
    """The views of an encoder that `what` names; arguments as of `Scene`, `patches` as of `read_patch`."""
    depth, grid = encoder.backbone.depth, grid_of(imgs.shape[2:], encoder.backbone.patch_size)
    if not -depth <= block < depth:
        raise ValueError(f'--block {block}: the encoder has blocks 0 … {depth - 1}, and -1 is the last')
    scene = Scene(encoder, imgs, photos, grid, block % depth)
    queries = [read_patch(patch, scene) for patch in patches] or [
        Patch(i, grid[0] // 2, grid[1] // 2) for i in range(min(len(imgs), DEFAULT_PATCHES))]
    views = {}
    if 'attention' in what:
        views['attention'] = attention_view(scene)
    if what & {'pca', 'neighbours'}:
        tokens = torch.cat([
            encoder.features(batch, 'tokens', [scene.block]).cpu() for batch in batches(scene, 'tokens')])
        views.update(pca=pca_view(scene, tokens), neighbours=neighbours_view(scene, tokens, queries))
    return [views[name] for name in ('pca', 'attention', 'neighbours') if name in what]


def reconstruction_view(columns: dict[str, np.ndarray]) -> View:
    return View(
        'Reconstruction',
        'What the encoder sees, the prediction of the decoder for every patch, and the prediction with the visible '
        'patches pasted in. Models of normalised pixels predict contrast, not brightness: each patch is shown with its '
        'true mean and standard deviation.', columns)


def attention_view(scene: Scene) -> View:
    maps = torch.cat([attention_maps(scene.encoder, batch, scene.block) for batch in batches(scene, 'attention')])
    heads = {'all heads': maps.mean(1), **{f'head {i}': maps[:, i] for i in range(maps.shape[1])}}
    source = 'the class token' if scene.encoder.num_prefix else (
        'all patches, in the mean (an encoder with windows has no class token)')
    return View(
        'Attention', f'How much attention each patch gets from {source} in {name_block(scene)}, by head. Each map has '
        'a scale of its own, from zero (dark) to its maximum (bright).',
        {'original': scene.photos, **{
            name: heat(scene, x / x.amax(1, keepdim=True).clamp_min(1e-12)) for name, x in heads.items()}})


def pca_view(scene: Scene, tokens: Tensor) -> View:
    colours, shares = pca_colours(tokens)
    return View(
        'Principal components', f'The first three principal components of the patch tokens after {name_block(scene)}, '
        'as red, green and blue, with one basis for all images: patches of the same colour have similar tokens, in '
        f'whichever image. They explain {", ".join(f"{share:.0%}" for share in shares)} of the variance.',
        {'original': scene.photos, 'components': spread(scene, colours)})


def neighbours_view(scene: Scene, tokens: Tensor, patches: Sequence[Patch]) -> View:
    columns = {'original': scene.photos}
    for patch in patches:
        x = similarities(tokens, patch.image, patch.row * scene.grid[1] + patch.col)
        column = heat(scene, x.clamp(0, 1))
        columns[f'like {name_patch(scene, patch)}'] = outline(scene, column, patch)
    return View(
        'Neighbours', f'How similar each patch token after {name_block(scene)} is to that of the outlined patch: '
        'cosine similarity, without the mean of all tokens, from 0 or less (dark) to 1, the patch itself (bright). '
        'In a heading, 2:96,40 is the patch of image 2 at x = 96, y = 40 pixels.',
        columns, Clickable(tokens, scene.grid, name_patch(scene, patches[0]), COLOUR_MAP))


def read_patch(text: str, scene: Scene) -> Patch:
    """The patch at IMAGE:X,Y, an image by its number, from 1, and a pixel of it as the encoder gets it."""
    n, (height, width) = len(scene.imgs), scene.imgs.shape[2:]
    if not (match := re.fullmatch(r'(\d+):(\d+),(\d+)', text)):
        raise ValueError(f'--patch must be IMAGE:X,Y, e.g. 1:{width // 2},{height // 2}, got {text!r}')
    number, x, y = map(int, match.groups())
    if not (1 <= number <= n and x < width and y < height):
        raise ValueError(f'--patch {text} is outside: images are 1 … {n}, X is 0 … {width - 1}, Y is 0 … {height - 1}')
    side = scene.encoder.backbone.patch_size
    return Patch(number - 1, y // side, x // side)


def name_patch(scene: Scene, patch: Patch) -> str:
    """IMAGE:X,Y of the centre of a patch, as `read_patch` reads it."""
    side = scene.encoder.backbone.patch_size
    return f'{patch.image + 1}:{patch.col * side + side // 2},{patch.row * side + side // 2}'


def name_block(scene: Scene) -> str:
    return f'block {scene.block} (of 0 … {scene.encoder.backbone.depth - 1})'


def batches(scene: Scene, name: str) -> tqdm:
    """The images in batches, with a progress bar."""
    return tqdm(scene.imgs.split(BATCH), name, unit='batch', delay=2)


def heat(scene: Scene, maps: Tensor) -> np.ndarray:
    """Maps (N, L) in [0, 1] as colours over the gray images: (N, height, width, 3) uint8."""
    colours = spread(scene, COLOUR_MAP[np.rint(255 * maps.numpy()).astype(np.uint8)])
    return np.rint(OPACITY * colours + (1 - OPACITY) * scene.photos.mean(-1, keepdims=True)).astype(np.uint8)


def spread(scene: Scene, values: np.ndarray) -> np.ndarray:
    """Colours of patches (N, L, 3) as images of the size of `photos`."""
    rows, cols = (np.arange(side) * count // side for side, count in zip(
        scene.photos.shape[1:3], scene.grid, strict=True))
    return values.reshape(len(values), *scene.grid, 3)[:, rows][:, :, cols]


def outline(scene: Scene, column: np.ndarray, patch: Patch) -> np.ndarray:
    """Draw a frame around a patch into its image: white in black, visible on every colour."""
    (top, bottom), (left, right) = (
        (i * side // count, (i + 1) * side // count) for i, side, count in zip(
            patch[1:], column.shape[1:3], scene.grid, strict=True))
    image = Image.fromarray(column[patch.image])
    for width, colour in ((1, 'white'), (2, 'black')):
        box = left - width, top - width, right + width - 1, bottom + width - 1
        ImageDraw.Draw(image).rectangle(box, outline=colour)
    return np.stack([np.array(image) if i == patch.image else photo for i, photo in enumerate(column)])


def shrink(photos: np.ndarray) -> np.ndarray:
    """(N, height, width, 3) images, with at most MAX_SIDE pixels a side."""
    return np.stack([resize(photo, MAX_SIDE) for photo in photos]) if max(photos.shape[1:3]) > MAX_SIDE else photos
