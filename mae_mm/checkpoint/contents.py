"""A masked autoencoder's weights in memory, read from and written to any format."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mae_mm.checkpoint.files import read_content, unwrap, write_content
from mae_mm.checkpoint.formats import (
    DECODER,
    FORMATS,
    Tensors,
    from_canonical,
    recognise,
    to_canonical,
)
from mae_mm.checkpoint.settings import huggingface_config, settings_of_config_text, settings_of_huggingface
from mae_mm.checkpoint.trust import check_settings, check_weights, contents_of
from mae_mm.models.vit import ARCHS

# Of the weights whose shapes tell the model's sizes.
DIMENSIONS = {
    'patch_embed.proj.weight': 4, 'pos_embed': 3, 'decoder_pos_embed': 3, 'decoder_embed.weight': 2,
    'decoder_pred.weight': 2}


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """Weights under canonical names (see `formats.py`) and what is known of them.

    Attributes:
        tensors: the masked autoencoder's weights, on the CPU.
        format: the format that they were read from, a key of `FORMATS`.
        others: weights of other parts (detection heads, …), under their own names.
        settings: what shapes do not tell, as far as the file does: `grid` (rows, columns of the position table),
            `num_heads`, `decoder_num_heads`, `norm_pix_loss`, `mask_ratio`.
        source: where it was read.
    """

    tensors: Tensors
    format: str = 'mae_mm'
    others: Tensors = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    source: str = 'checkpoint'

    @property
    def embed_dim(self) -> int:
        """Width of the encoder."""
        return self.tensors['patch_embed.proj.weight'].shape[0]

    @property
    def depth(self) -> int:
        """Blocks of the encoder."""
        return _depth(self.tensors, 'blocks')

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.tensors['patch_embed.proj.weight'].shape[1]

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tensors['patch_embed.proj.weight'].shape[2]

    @property
    def has_decoder(self) -> bool:
        """Whether images can be reconstructed."""
        return 'decoder_pred.weight' in self.tensors

    @property
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        return _depth(self.tensors, 'decoder_blocks')

    @property
    def num_positions(self) -> int:
        """Patches that the position table knows, without the class token."""
        return self.tensors['pos_embed'].shape[1] - 1 if 'pos_embed' in self.tensors else 0

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the position table: as the file says, or else a square, or else unknown."""
        known, side = self.settings.get('grid'), math.isqrt(self.num_positions)
        if known and known[0] * known[1] == self.num_positions:
            return tuple(known)
        return (side, side) if side * side == self.num_positions else None

    def encoder_only(self) -> 'Checkpoint':
        """The same without decoder and classification head."""
        leave = (*DECODER, 'head')
        kept = {name: tensor for name, tensor in self.tensors.items() if name.split('.')[0] not in leave}
        return replace(self, tensors=kept, others={})

    def __str__(self) -> str:
        sizes = {(arch['embed_dim'], arch['depth']): name for name, arch in ARCHS.items()}
        grid = '{}x{}'.format(*self.grid) if self.grid else f'{self.num_positions} (rows and columns unknown)'
        text = (
            f'ViT {sizes.get((self.embed_dim, self.depth), "of no published size")}: {self.embed_dim} wide, '
            f'{self.depth} deep, {self.patch_size}-px patches, {self.in_chans} channels, {grid} positions')
        if self.has_decoder:
            text += f'; decoder {self.tensors["decoder_pred.weight"].shape[1]} wide, {self.decoder_depth} deep'
        return text


def read_checkpoint(path: str | Path, prefix: str = '') -> Checkpoint:
    """Read weights in any format of `FORMATS`, which is told by their names.

    Args:
        path: a torch or safetensors file, whatever its name; a folder of transformers; http(s)://….
        prefix: take the keys that begin so, without it, and leave all others; for models inside other models.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if the file is damaged or unsafe, or no ViT's in a known format.
    """
    content, hf_config = read_content(path)
    with contents_of(path):
        checkpoint = _interpret(content, hf_config, prefix, str(path))
        str(checkpoint)  # whose sizes are those of tensors
    return checkpoint


def _interpret(content: Mapping, hf_config: dict, prefix: str, source: str) -> Checkpoint:
    """What a file holds as the weights of a masked autoencoder; fails in any way where it holds something else."""
    tensors, wrapper = unwrap(content)
    tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    form = recognise(tensors, wrapper)
    check_weights({key: tensor for key, tensor in tensors.items() if FORMATS[form].read(key) is not None})
    known, others = to_canonical(tensors, FORMATS[form])
    meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
    for name, dims in DIMENSIONS.items():
        if name in known and (known[name].ndim != dims or not known[name].numel()):
            raise ValueError(f'{name} has the shape {tuple(known[name].shape)}, not {dims} dimensions of 1 or more')
    settings = (
        settings_of_huggingface(hf_config) if form == 'huggingface'
        else meta.get('mae_mm') or settings_of_config_text(meta.get('cfg', '')))
    return Checkpoint(known, form, others, check_settings(settings), source)


def write_checkpoint(checkpoint: Checkpoint, path: str | Path, form: str) -> None:
    """Write weights, unchanged, as a library writes and strictly loads them. Optimizer states are left out.

    Args:
        checkpoint: e.g. what `read_checkpoint` returned.
        path: file to write, as safetensors where it ends so; for 'huggingface' a folder, which gets `config.json` and
            `model.safetensors`.
        form: a key of `FORMATS`.

    Raises:
        ValueError: for an unknown format, or one without a place for a part of the weights.
    """
    if form not in FORMATS:
        raise ValueError(f'format {form!r} is none of {", ".join(FORMATS)}')
    with contents_of(checkpoint.source, f'cannot be written as {form}'):
        tensors = from_canonical(checkpoint.tensors, FORMATS[form])
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        config = huggingface_config(checkpoint) if form == 'huggingface' else {}
    if form == 'huggingface':
        if not checkpoint.has_decoder:  # ViTMAEModel is the ViT itself
            tensors = {key.removeprefix('vit.'): tensor for key, tensor in tensors.items()}
        write_content(tensors, Path(path) / 'model.safetensors')
        (Path(path) / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    elif Path(path).suffix == '.safetensors' or form == 'timm':
        write_content(tensors, path)
    elif form == 'mae':
        write_content(dict(model=tensors), path)
    else:
        write_content(dict(state_dict=tensors, meta=dict(mae_mm=checkpoint.settings)), path)


def _depth(tensors: Tensors, stack: str) -> int:
    return 1 + max((int(name.split('.')[1]) for name in tensors if name.startswith(f'{stack}.')), default=-1)
