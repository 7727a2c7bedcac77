"""Checkpoint into model: what fits is loaded, what should fit is resized, everything else is reported or refused."""

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import MessageHub, MMLogger, print_log
from mmengine.model.weight_init import update_init_info
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.formats import DECODER, ENCODER, shorten
from mae_mm.checkpoint.settings import STEMS_FROM
from mae_mm.checkpoint.trust import check_weights, contents_of
from mae_mm.models.decoders import MAEDecoder
from mae_mm.models.positions import resize_rel_pos, resize_table
from mae_mm.models.vit import ViT
from mae_mm.registry import WEIGHT_INITIALIZERS

EXTRAS = ('mask_token', 'target_generator.')  # what variants of the autoencoder have besides encoder and decoder


@dataclass
class LoadReport:
    """What became of every tensor: name -> number of parameters."""

    checkpoint: Checkpoint
    matched: dict[str, int] = field(default_factory=dict)  # loaded as they are
    resized: dict[str, int] = field(default_factory=dict)  # loaded after resampling; the name says from what to what
    new: dict[str, int] = field(default_factory=dict)  # only in the model; they keep their initialisation
    ignored: dict[str, int] = field(default_factory=dict)  # only in the file

    def __str__(self) -> str:
        lines = [
            f'{self.checkpoint.source} ({self.checkpoint.format})', f'{self.checkpoint}',
            f'{"":>10}{"tensors":>8}{"parameters":>13}']
        for row in ('matched', 'resized', 'new', 'ignored'):
            sizes = getattr(self, row)
            lines.append(f'{row:>10}{len(sizes):>8}{sum(sizes.values()):>13,}  {shorten(sizes, 3)}'.rstrip())
        return '\n'.join(lines)


@WEIGHT_INITIALIZERS.register_module(name=['Pretrained', 'PretrainedConv'])
class Pretrained:
    """`init_cfg=dict(type='mae_mm.Pretrained', checkpoint=…)` of a `mae_mm.ViT`, or of a model with one inside.

    Arguments are those of `load_pretrained`; a decoder may be new. `mae_mm.PretrainedConv` is the same. Other
    backbones, e.g. a ResNet, take the `backbone.` of a checkpoint exactly.
    """

    def __init__(self, checkpoint: str, prefix: str = '', grid_size: Sequence[int] | None = None) -> None:
        self.checkpoint, self.prefix, self.grid_size = checkpoint, prefix, grid_size

    def __call__(self, module: nn.Module) -> None:
        if any(isinstance(part, ViT) for part in module.modules()):
            # mmengine runs this before the children's own initialisation, which must not overwrite the loaded weights.
            for part in (*find_parts(module), getattr(module, 'target_generator', None)):
                if part is not None and part is not module:
                    part.init_weights()
            load_pretrained(module, self.checkpoint, self.prefix, self.grid_size, new_decoder=True)
        else:
            load_exactly(module, self.checkpoint, self.prefix or 'backbone.')
            if getattr(module, 'zero_init_residual', False):
                module.zero_init_residual = False  # mmpretrain's ResNet would zero its last norms now, loaded or not
        if hasattr(module, '_params_init_info'):
            update_init_info(module, f'mae_mm.Pretrained: loaded from {self.checkpoint}')


def load_pretrained(
    module: nn.Module, checkpoint: str | Path | Checkpoint, prefix: str = '', grid_size: Sequence[int] | None = None,
    new_decoder: bool = False,
) -> LoadReport:
    """Load weights into the ViT of a model and, if the model is a masked autoencoder, into its decoder.

    Position tables are resampled to the model's grid, the patch embedding to its channels and patch size (see
    `adapt_patch_embed`). One table with what became of every tensor is logged. If a weight of encoder or decoder is
    missing, does not fit or has no place, this is a ValueError, and nothing is loaded.

    `prefix` is that of `read_checkpoint`; `grid_size` are the rows and columns of the file's position table, if the
    file does not give them and it is not a square. With `new_decoder`, the decoder of a masked autoencoder keeps its
    initialisation, with a warning, if the file has none; so does its last layer if it predicts patches of another size.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, prefix)
    with contents_of(checkpoint.source):
        pairs, report = _fit(checkpoint, module, grid_size, new_decoder)
    for target, source in pairs:
        target.copy_(source)
    if origins := checkpoint.settings.get('stems_from'):
        MessageHub.get_current_instance().update_info(STEMS_FROM, origins)
    MMLogger.get_current_instance().info(f'weights loaded from {report}')
    if new_decoder and (new := [name for name in report.new if name.split('.')[0] in DECODER]):
        part, found = ('last layer of the decoder', 'one for other patches') if checkpoint.has_decoder else (
            'decoder', 'none')
        print_log(f'THE {part.upper()} IS NEW, {len(new)} tensors with random weights: {checkpoint.source} has {found}',
                  'current', logging.WARNING)
    return report


def find_parts(module: nn.Module) -> tuple[ViT, nn.Module | None]:
    """The ViT in a model and, if it is a masked autoencoder, its decoder."""
    vits = [part for part in module.modules() if isinstance(part, ViT)]
    if len(vits) != 1:
        raise ValueError(
            f'{type(module).__name__} has {len(vits)} mae_mm.ViT, not one; give init_cfg to each mae_mm.ViT instead')
    return vits[0], next((part for part in module.modules() if isinstance(part, MAEDecoder)), None)


def _fit(
    checkpoint: Checkpoint, module: nn.Module, grid_size: Sequence[int] | None, new_decoder: bool,
) -> tuple[list[tuple[Tensor, Tensor]], LoadReport]:
    """The tensors of a model, each with the file's in its shape, and what became of each."""
    vit, decoder = find_parts(module)
    grid = _grid_of_file(checkpoint, vit, grid_size)
    wanted = {**vit.state_dict(), **({} if decoder is None else decoder.state_dict())}  # share the model's memory
    tensors, others = checkpoint.tensors, checkpoint.others
    may_be_new = ('fc_norm.', *(('decoder_pred.', ) if checkpoint.has_decoder else DECODER) * new_decoder)
    pairs, report, missing, misfits = [], LoadReport(checkpoint), [], []
    for name, target in wanted.items():
        source, change = (
            _adapt(name, tensors[name], target, grid, checkpoint.bands, vit) if name in tensors else (None, ''))
        if source is not None and source.shape == target.shape:
            pairs.append((target, source))
            (report.resized if change else report.matched)[f'{name} ({change})' if change else name] = target.numel()
        elif name.startswith(may_be_new) or (source is None and '.rel_pos' in name):  # which the file need not have
            report.new[name] = target.numel()
        elif source is None:
            missing.append(name)
        else:
            misfits.append(f'{name} {tuple(tensors[name].shape)} -> {tuple(target.shape)}')
    unused = {name: tensor for name, tensor in tensors.items() if name not in wanted}
    homeless = [name for name in unused if name.split('.')[0] in set(ENCODER) - {'norm', 'fc_norm'}]
    heads = checkpoint.settings.get('num_heads')
    if missing or misfits or homeless or heads not in (None, vit.blocks[0].attn.num_heads):
        faults = [
            f'{len(names)} {what}: {shorten(names)}' for what, names in (
                ('missing in the file', missing), ('of another shape (file -> model)', misfits),
                ('without a place in the model', homeless)) if names]
        cause = _cause(checkpoint, vit, decoder, [*missing, *misfits, *homeless])
        raise ValueError(
            f'{checkpoint.source} ({checkpoint.format}) does not fit the model, and nothing was loaded\n  '
            + '\n  '.join([*faults, f'likely cause: {cause}']))
    report.ignored = {name: tensor.numel() for name, tensor in {**unused, **others}.items()}
    for name, target in module.state_dict().items():
        if name.startswith(EXTRAS) and name in others and others[name].shape == target.shape:
            check_weights({name: others[name]} if target.is_floating_point() else {})
            pairs.append((target, others[name]))
            report.matched[name] = report.ignored.pop(name)
        elif name.startswith(EXTRAS):
            report.new[name] = target.numel()
    return pairs, report


def adapt_patch_embed(
    weight: Tensor, in_chans: int, patch_size: int, names: Sequence[str] = (), wanted: Sequence[str] = (),
) -> Tensor:
    """Bring the weight of a patch embedding, (D, C, p, p), to other channels and another patch size.

    Channels (timm's rule): one channel gets the sum over the file's C, so that a gray image has the features of the
    same image in C equal channels; N channels get the file's in turn, times C / N, so that activations keep their
    magnitude. If the file's channels have `names`, and some are among the `wanted` ones, these go to the channels of
    the same name, and the others get the mean of the file's; all times C / N. Size: pseudo-inverse resampling
    (FlexiViT, arXiv:2212.08013, section 3.4), so that a patch that is enlarged together with its weight keeps its
    embedding.
    """
    chans = weight.shape[1]
    if set(names) & set(wanted):
        mean = weight.float().mean(1).to(weight.dtype)
        weight = torch.stack([weight[:, names.index(one)] if one in names else mean for one in wanted], 1)
        weight = weight * (chans / in_chans)
    elif in_chans == 1 != chans:
        weight = weight.float().sum(1, keepdim=True).to(weight.dtype)
    elif in_chans != chans:
        weight = weight[:, torch.arange(in_chans) % chans] * (chans / in_chans)
    return resample_patch_embed(weight, [patch_size, patch_size])


def _adapt(
    name: str, source: Tensor, target: Tensor, grid: tuple[int, int], bands: tuple[str, ...] | None, vit: ViT,
) -> tuple[Tensor, str]:
    """A weight in the model's shape if there is a rule for it, and what was changed ('' for nothing)."""
    if name.endswith('pos_embed') and grid != vit.grid_size and source.shape[-1] == target.shape[-1]:
        return resize_table(source, grid, vit.grid_size), '{}x{} -> {}x{}'.format(*grid, *vit.grid_size)
    if name == 'patch_embed.proj.weight' and len(source) == len(target):
        names, wanted = bands or (), vit.bands or ()
        shared = [one for one in wanted if one in names and names != wanted]
        if shared or source.shape != target.shape:
            chans, side = source.shape[1:3]
            change = f'{chans} -> {vit.in_chans} channels{f" ({shorten(shared)} by name)" if shared else ""}'
            return adapt_patch_embed(source, vit.in_chans, vit.patch_size, names, wanted), (
                f'{change}, {side} -> {vit.patch_size} px')
    if '.rel_pos' in name and source.ndim == target.ndim and source.shape != target.shape:
        return resize_rel_pos(source, target.shape), f'{tuple(source.shape)} -> {tuple(target.shape)}'
    return source, ''


def _grid_of_file(checkpoint: Checkpoint, vit: ViT, given: Sequence[int] | None) -> tuple[int, int]:
    """Rows and columns of the file's position table: as given, as in the file, or the model's or a square if unique."""
    count, known = checkpoint.num_positions, given or checkpoint.settings.get('grid')
    if known and math.prod(known) == count:
        return tuple(known)
    possible = {grid for grid in (vit.grid_size, checkpoint.grid) if grid and math.prod(grid) == count}
    if given or len(possible) != 1:
        raise ValueError(
            f'the rows and columns of its {count} positions are {f"not {tuple(given)}" if given else "not known"}; set '
            f"grid_size=(rows, columns), e.g. {vit.grid_size} if they are the model's")
    return possible.pop()


def _cause(checkpoint: Checkpoint, vit: ViT, decoder: nn.Module | None, faulty: Sequence[str]) -> str:
    """The likely reason why a checkpoint does not fit, and what to do."""
    heads = vit.blocks[0].attn.num_heads
    model = (vit.embed_dim, vit.depth, heads)
    file = (checkpoint.embed_dim, checkpoint.depth, checkpoint.settings.get('num_heads', heads))
    if file != model:
        return (
            'another architecture: the file is {} wide, {} deep, {} heads, '.format(*file)
            + "the model {} wide, {} deep, {} heads; set the backbone's arch".format(*model))
    if decoder is not None and not checkpoint.has_decoder:
        return 'an encoder-only file where a decoder is needed; give the file that pre-training wrote'
    if any(name.split('.')[0] in DECODER for name in faulty):
        return (
            'another decoder; set neck.embed_dim, neck.depth, patch size and channels as in the file, or start '
            'a new one from the encoder: python tools/convert_checkpoint.py '
            f'{shlex.quote(checkpoint.source)} encoder.pth --to mae_mm --encoder-only')
    if any('gamma' in name for name in faulty):
        return 'blocks that scale their outputs, as those of BEiT, DINOv2 and DeiT III: a plain ViT has no such weights'
    if 'norm.weight' in faulty:
        return (
            'a fine-tuned file: classifiers with mean pooling, detectors and segmentors have no final norm; load it '
            "with out_type='avg_featmap' or 'featmap', or give the pre-trained file")
    return 'an incomplete file, or a model with other parts, e.g. other rel_pos or window_size'
