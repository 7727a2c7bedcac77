"""A masked autoencoder's weights in memory, read from and written to any format."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mae_mm.checkpoint.files import read_content, unwrap, write_content
from mae_mm.checkpoint.formats import DECODER, FORMATS, MOCO_V3, Tensors, from_canonical, recognise, to_canonical
from mae_mm.checkpoint.settings import origins_of, settings_of_huggingface, settings_of_meta, settings_of_timm
from mae_mm.checkpoint.trust import check_settings, check_weights, contents_of
from mae_mm.models.archs import ARCHS

COLOURS = ('red', 'green', 'blue')
PUBLISHED_HEADS = {arch['embed_dim']: arch['num_heads'] for arch in ARCHS.values()}


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """Weights under canonical names (see `formats.py`) and what is known about them.

    `settings` are what shapes do not show, as far as the file says it: `grid` (rows, columns of the position table),
    `num_heads`, `window_size`, `decoder_num_heads`, `norm_pix_loss`, `mask_ratio`, `classes`; `bands`, names of the
    channels; `mean`, `std`, `clip` and `per_image` of `ImagePreprocessor`; `reading`, options of the transform that
    reads images (dtype, bands, …), and `resize`, pixels of the short side before the centre is cropped; `stems_from`,
    the fetched checkpoints that it was trained from, with their licences.
    """

    tensors: Tensors  # of the masked autoencoder, on the CPU
    format: str = 'mae_mm'  # the key of `FORMATS` that they were read from
    others: Tensors = field(default_factory=dict)  # of other parts (detection heads, …), under their own names
    settings: dict = field(default_factory=dict)
    source: str = 'checkpoint'  # path that it was read from

    @property
    def embed_dim(self) -> int:
        return self.tensors['patch_embed.proj.weight'].shape[0]

    @property
    def depth(self) -> int:
        return _depth(self.tensors, 'blocks')

    @property
    def patch_size(self) -> int:
        return self.tensors['patch_embed.proj.weight'].shape[-1]

    @property
    def decoder_depth(self) -> int:
        return _depth(self.tensors, 'decoder_blocks')

    @property
    def has_decoder(self) -> bool:
        return 'decoder_pred.weight' in self.tensors

    @property
    def num_positions(self) -> int:
        return self.tensors['pos_embed'].shape[1] - 1 if 'pos_embed' in self.tensors else 0

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the position table: from the file's settings, or a square, or None."""
        known, side = self.settings.get('grid'), math.isqrt(self.num_positions)
        if known and known[0] * known[1] == self.num_positions:
            return tuple(known)
        return (side, side) if side * side == self.num_positions else None

    @property
    def bands(self) -> tuple[str, ...] | None:
        """Names of the channels: from the file's settings, or those of photographs, or None."""
        chans, known = self.tensors['patch_embed.proj.weight'].shape[1], self.settings.get('bands')
        if known and len(known) == chans:
            return tuple(known)
        return COLOURS if chans == 3 and not self.settings.get('reading', {}).get('bands') else None

    def encoder_only(self) -> 'Checkpoint':
        """The same without decoder and classification head."""
        kept = {name: tensor for name, tensor in self.tensors.items() if name.split('.')[0] not in (*DECODER, 'head')}
        return replace(self, tensors=kept, others={})

    def __str__(self) -> str:
        sizes = {(arch['embed_dim'], arch['depth']): name for name, arch in ARCHS.items()}
        width, chans, patch_size = self.tensors['patch_embed.proj.weight'].shape[:3]
        grid = '{}x{}'.format(*self.grid) if self.grid else f'{self.num_positions} (rows and columns unknown)'
        text = (
            f'ViT {sizes.get((width, self.depth), "of no published size")}: {width} wide, {self.depth} deep, '
            f'{patch_size}-px patches, {chans} channels, {grid} positions')
        if self.has_decoder:
            text += f'; decoder {self.tensors["decoder_pred.weight"].shape[1]} wide, {self.decoder_depth} deep'
        return text


def read_checkpoint(path: str | Path, prefix: str = '') -> Checkpoint:
    """Read weights in any format of `FORMATS`, recognised by their names, from what `read_content` reads.

    Only keys that begin with `prefix` are taken, without it: for models inside other models.
    """
    content, hf_config = read_content(path)
    with contents_of(path):  # which fail in any way if they are not those of a ViT
        tensors, wrapper = unwrap(content)
        moco_v3 = any(key.startswith(MOCO_V3) for key in tensors)
        if not any(key.startswith(prefix) for key in tensors):
            called = f' whose names start with {prefix!r}' if prefix else ''
            raise ValueError(f'it holds no tensors{called}; its first keys: {[*tensors, *content][:4]}')
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        form, inner = recognise(tensors, wrapper)
        read = FORMATS[form].read
        check_weights({
            key: tensor for key, tensor in tensors.items() if key.startswith(inner) and read(key.removeprefix(inner))})
        known, others = to_canonical(tensors, FORMATS[form], inner)
        meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
        if form == 'huggingface':
            settings = settings_of_huggingface(hf_config)
        elif moco_v3 and len(known['patch_embed.proj.weight']) == 384:
            settings = dict(num_heads=12)  # of its ViT-S; everybody else's have 6
        else:
            settings = settings_of_meta(meta) or settings_of_timm(hf_config)
        settings = check_settings(settings)
        settings |= origins_of(content, settings)  # checked there
        if any(name.rpartition('.')[2] == 'dist_token' for name in others):  # DeiT's second class token
            table = known['pos_embed']
            others['pos_embed of dist_token'] = table[:, 1:2]
            known['pos_embed'] = torch.cat([table[:, :1], table[:, 2:]], dim=1)
        checkpoint = Checkpoint(known, form, others, settings, str(path))
        str(checkpoint)  # fails if the sizes are not those of tensors
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, path: str | Path, form: str) -> None:
    """Write weights, unchanged, under the names that a library writes and strictly loads.

    The file is safetensors if `path` ends so. For 'huggingface' `path` is a folder, which gets `config.json` and
    `model.safetensors`.
    """
    if form not in FORMATS:
        raise ValueError(f'format {form!r} is not one of {", ".join(FORMATS)}')
    with contents_of(checkpoint.source, f'cannot be written as {form}'):
        tensors = from_canonical(checkpoint.tensors, FORMATS[form])
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        config = _huggingface_config(checkpoint) if form == 'huggingface' else {}
    if form == 'huggingface':
        if not checkpoint.has_decoder:  # ViTMAEModel is the ViT itself
            tensors = {key.removeprefix('vit.'): tensor for key, tensor in tensors.items()}
        write_content(tensors, Path(path) / 'model.safetensors')
        (Path(path) / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
        return
    wrapper = None if Path(path).suffix == '.safetensors' else FORMATS[form].wrapper
    content = {wrapper: tensors} if wrapper else tensors
    if wrapper == 'state_dict':  # of OpenMMLab
        content['meta'] = dict(mae_mm=checkpoint.settings)
    write_content(content, path)


def _huggingface_config(checkpoint: Checkpoint) -> dict:
    """The `config.json` with which transformers builds the model that these weights fit."""
    grid, tensors, settings = checkpoint.grid, checkpoint.tensors, checkpoint.settings
    width, chans, patch_size = tensors['patch_embed.proj.weight'].shape[:3]
    if grid is None or grid[0] != grid[1]:
        raise ValueError(
            f'the position table is {grid or checkpoint.num_positions}, and transformers builds square ones only')
    config = dict(
        architectures=['ViTMAEForPreTraining' if checkpoint.has_decoder else 'ViTMAEModel'],
        model_type='vit_mae',
        hidden_size=width, num_hidden_layers=checkpoint.depth,
        num_attention_heads=settings.get('num_heads', PUBLISHED_HEADS.get(width)),
        intermediate_size=len(tensors['blocks.0.mlp.fc1.bias']),
        image_size=grid[0] * patch_size, patch_size=patch_size, num_channels=chans, layer_norm_eps=1e-6,
        mask_ratio=settings.get('mask_ratio', 0.75), norm_pix_loss=settings.get('norm_pix_loss', True))
    if 'stems_from' in settings:
        config['stems_from'] = settings['stems_from']
    if checkpoint.has_decoder:
        width = len(tensors['decoder_embed.weight'])
        config.update(
            decoder_hidden_size=width,
            decoder_num_hidden_layers=checkpoint.decoder_depth,
            decoder_num_attention_heads=settings.get('decoder_num_heads', 16 if width == 512 else None),
            decoder_intermediate_size=len(tensors['decoder_blocks.0.mlp.fc1.bias']))
    if unknown := [key for key, value in config.items() if value is None]:
        raise ValueError(
            f'the file does not give {unknown[0]}, and no published model is {width} wide; set num_heads and '
            'decoder_num_heads (--set num_heads=N)')
    return config


def _depth(tensors: Tensors, stack: str) -> int:
    return 1 + max((int(name.split('.')[1]) for name in tensors if name.startswith(f'{stack}.')), default=-1)
