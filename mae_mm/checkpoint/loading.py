"""Checkpoint into model: what fits is loaded, what should fit is resized, all else is said aloud or refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.checkpoint.formats import DECODER, ENCODER, Tensors, shorten
from mae_mm.checkpoint.trust import check_weights, contents_of
from mae_mm.models.vit import ViT, resize_table
from mae_mm.registry import WEIGHT_INITIALIZERS

TABLES = ('pos_embed', 'decoder_pos_embed')
NORMS = ('norm', 'fc_norm')  # of the output: which of them a ViT has depends on its `out_type`


@dataclass
class LoadReport:
    """What became of every tensor: name -> number of parameters.

    Attributes:
        matched: loaded as they are.
        resized: loaded after resampling; the name says from what to what.
        new: in the model only; they keep their initialisation.
        ignored: in the file only.
    """

    checkpoint: Checkpoint
    matched: dict[str, int] = field(default_factory=dict)
    resized: dict[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f'{self.checkpoint.source} ({self.checkpoint.format})', f'{self.checkpoint}',
            f'{"":>10}{"tensors":>8}{"parameters":>13}']
        for row in ('matched', 'resized', 'new', 'ignored'):
            sizes = getattr(self, row)
            lines.append(f'{row:>10}{len(sizes):>8}{sum(sizes.values()):>13,}  {shorten(sizes, 3)}'.rstrip())
        return '\n'.join(lines)


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """`init_cfg=dict(type='mae_mm.Pretrained', checkpoint=…)` of a `mae_mm.ViT`, or of a model with one inside.

    Args: as of `load_pretrained`.
    """

    def __init__(self, checkpoint: str, prefix: str = '', grid_size: Sequence[int] | None = None) -> None:
        self.checkpoint, self.prefix, self.grid_size = checkpoint, prefix, grid_size

    def __call__(self, module: nn.Module) -> None:
        """Load into a module whose other weights are, or will be, initialised otherwise."""
        # mmengine runs this before the children's own initialisation, which must not come on top.
        for part in (*find_parts(module), getattr(module, 'target_generator', None)):
            if part is not None and part is not module:
                part.init_weights()
        load_pretrained(module, self.checkpoint, self.prefix, self.grid_size)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, f'mae_mm.Pretrained: loaded from {self.checkpoint}')


def load_pretrained(
    module: nn.Module, checkpoint: str | Path | Checkpoint, prefix: str = '', grid_size: Sequence[int] | None = None,
) -> LoadReport:
    """Load weights into the ViT of a model and, where the model is a masked autoencoder, into its decoder.

    The position tables are resampled to the model's grid, the patch embedding to its channels and patch size (see
    `adapt_patch_embed`). What became of every tensor is printed as one table, on rank 0.

    Args:
        module: a `mae_mm.ViT`, or any model with one of them inside.
        checkpoint: path of a file in any format, or what `read_checkpoint` returned.
        prefix: see `read_checkpoint`.
        grid_size: rows and columns of the file's position table, where neither the file says so nor it is a square.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a weight of encoder or decoder is missing, misfits or finds no place. Nothing is loaded then.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, prefix)
    vit, decoder = find_parts(module)
    with contents_of(checkpoint.source):
        grid = tuple(grid_size or _grid_of_file(checkpoint, vit))
        if grid[0] * grid[1] != checkpoint.num_positions:
            raise ValueError(f'grid_size={grid} has not the {checkpoint.num_positions} positions of the file')
        state, report = fit(checkpoint, vit, decoder, grid)
        extras = _extras(module, checkpoint) if decoder is not None else {}
        own = module.state_dict()  # which shares its model's memory
        check_weights({name: source for name, source in extras.items()
                       if source is not None and own[name].is_floating_point()})
    for part in (vit, decoder):
        if part is not None:
            names = part.state_dict().keys()
            part.load_state_dict({name: state[name] for name in names if name in state}, strict=False)
    for name, source in extras.items():
        if source is None:
            report.new[name] = own[name].numel()
        else:
            own[name].copy_(source)
            report.matched[name] = report.ignored.pop(name)
    print_log(f'weights loaded from {report}', logger='current')
    return report


def _extras(module: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor | None]:
    """What variants of the autoencoder have beside its parts: the encoder's mask token, the weights of a target.

    Returns:
        The file's weight for each, None where it has none of that shape.
    """
    wanted = {name: target.shape for name, target in module.state_dict().items()
              if name == 'mask_token' or name.startswith('target_generator.')}
    found = {name: checkpoint.others.get(name) for name in wanted}
    return {name: source if source is not None and source.shape == wanted[name] else None
            for name, source in found.items()}


def find_parts(module: nn.Module) -> tuple[ViT, nn.Module | None]:
    """The ViT in a model and the decoder of a masked autoencoder, where there is one.

    Raises:
        ValueError: if there is not exactly one ViT.
    """
    vits = [part for part in module.modules() if isinstance(part, ViT)]
    if len(vits) != 1:
        raise ValueError(
            f'{type(module).__name__} has {len(vits)} mae_mm.ViT, not one; give init_cfg to each mae_mm.ViT instead')
    # Told by its weights: importing the class would need mmpretrain in detectors and segmentors, too.
    return vits[0], next((part for part in module.modules() if hasattr(part, 'decoder_pred')), None)


def fit(
    checkpoint: Checkpoint, vit: ViT, decoder: nn.Module | None, grid: tuple[int, int],
) -> tuple[Tensors, LoadReport]:
    """Weights in the shapes of a model, and what became of each.

    Args:
        grid: rows and columns of the checkpoint's position tables.

    Raises:
        ValueError: as `load_pretrained`.
    """
    wanted = {**vit.state_dict(), **({} if decoder is None else decoder.state_dict())}
    state, report, missing, misfits = {}, LoadReport(checkpoint), [], {}
    for name, target in wanted.items():
        source = checkpoint.tensors.get(name)
        if source is None:
            if _may_be_new(name):
                report.new[name] = target.numel()
            else:
                missing.append(name)
            continue
        state[name], change = _adapt(name, source, target, grid, vit)
        if state[name].shape != target.shape:
            misfits[name] = f'{name} {tuple(source.shape)} -> {tuple(target.shape)}'
        elif change:
            report.resized[f'{name} ({change})'] = target.numel()
        else:
            report.matched[name] = target.numel()
    unused = {name: tensor.numel() for name, tensor in checkpoint.tensors.items() if name not in wanted}
    homeless = [name for name in unused if name.split('.')[0] in ENCODER and name.split('.')[0] not in NORMS]
    report.ignored = {**unused, **{name: tensor.numel() for name, tensor in checkpoint.others.items()}}
    heads, model_heads = checkpoint.settings.get('num_heads'), vit.blocks[0].attn.num_heads
    if missing or misfits or homeless or heads not in (None, model_heads):
        complaints = [
            f'{len(names)} {what}: {shorten(names)}' for what, names in (
                ('missing in the file', missing), ('of another shape (file -> model)', misfits.values()),
                ('without a place in the model', homeless)) if names]
        cause = _cause(checkpoint, vit, decoder, [*missing, *misfits, *homeless])
        raise ValueError(
            f'{checkpoint.source} ({checkpoint.format}) does not fit the model, and nothing was loaded\n  '
            + '\n  '.join([*complaints, f'likely cause: {cause}']))
    return state, report


def adapt_patch_embed(weight: Tensor, in_chans: int, patch_size: int) -> Tensor:
    """Bring the weight of a patch embedding to other channels and another patch size.

    Channels: one channel gets the sum over the file's C (a gray image answers as the same image in C equal channels);
    N channels get the file's in turn, times C / N, so that activations keep their magnitude. Both are timm's rule.
    Size: pseudo-inverse resampling (FlexiViT, arXiv:2212.08013, section 3.4): a patch that is enlarged together with
    its weight keeps its embedding.

    Args:
        weight: (D, C, p, p).

    Returns:
        (D, `in_chans`, `patch_size`, `patch_size`), same dtype; `weight` itself where nothing changes.
    """
    chans = weight.shape[1]
    if in_chans == 1 != chans:
        weight = weight.float().sum(1, keepdim=True).to(weight.dtype)
    elif in_chans != chans:
        weight = weight[:, torch.arange(in_chans) % chans] * (chans / in_chans)
    return resample_patch_embed(weight, [patch_size, patch_size])


def resize_rel_pos(table: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample relative positions to another window or grid, as their attention does for images of other sizes.

    Args:
        table: of an axis, (2 S - 1, d), resampled linearly; or of both, (heads, 2 H - 1, 2 W - 1), bicubically.
    """
    if table.ndim == 2:
        return F.interpolate(table.t()[None].float(), size=shape[0], mode='linear')[0].t().to(table.dtype)
    return F.interpolate(table[None].float(), size=tuple(shape[1:]), mode='bicubic')[0].to(table.dtype)


def _adapt(name: str, source: Tensor, target: Tensor, grid: tuple[int, int], vit: ViT) -> tuple[Tensor, str]:
    """A weight in the model's shape where there is a rule for it, and what was changed ('' for nothing)."""
    if name in TABLES and grid != vit.grid_size and source.shape[-1] == target.shape[-1]:
        return resize_table(source, grid, vit.grid_size), '{}x{} -> {}x{}'.format(*grid, *vit.grid_size)
    if name == 'patch_embed.proj.weight' and len(source) == len(target) and source.shape != target.shape:
        chans, side = source.shape[1:3]
        change = f'{chans} -> {vit.in_chans} channels, {side} -> {vit.patch_size} px'
        return adapt_patch_embed(source, vit.in_chans, vit.patch_size), change
    if '.rel_pos' in name and source.ndim == target.ndim and source.shape != target.shape:
        return resize_rel_pos(source, target.shape), f'{tuple(source.shape)} -> {tuple(target.shape)}'
    return source, ''


def _may_be_new(name: str) -> bool:
    """Parts that pre-training does not have: they start at their neutral initialisation."""
    return name.startswith('fc_norm.') or '.rel_pos' in name


def _grid_of_file(checkpoint: Checkpoint, vit: ViT) -> tuple[int, int]:
    own, grid = vit.grid_size, checkpoint.grid
    told = grid is not None and tuple(checkpoint.settings.get('grid') or ()) == grid
    if checkpoint.num_positions == own[0] * own[1] and not told:
        if grid not in (None, own):
            raise ValueError(
                f'{checkpoint.source}: its {checkpoint.num_positions} positions may be {grid[0]}x{grid[1]} or the '
                f"model's {own[0]}x{own[1]}; say which, e.g. grid_size={own}")
        return own
    if grid is None and checkpoint.num_positions:
        raise ValueError(
            f'{checkpoint.source}: its {checkpoint.num_positions} positions are no square and the file does not say '
            'their rows and columns; give grid_size=(rows, columns)')
    return grid or own


def _cause(checkpoint: Checkpoint, vit: ViT, decoder: nn.Module | None, faulty: Iterable[str]) -> str:
    """The likely reason why a checkpoint does not fit, and what to do."""
    heads = vit.blocks[0].attn.num_heads
    model = (vit.embed_dim, vit.depth, heads)
    file = (checkpoint.embed_dim, checkpoint.depth, checkpoint.settings.get('num_heads', heads))
    if file != model:
        return (
            'another architecture: the file is {} wide, {} deep, {} heads, '.format(*file)
            + "the model {} wide, {} deep, {} heads; set the backbone's arch".format(*model))
    if decoder is not None and not checkpoint.has_decoder:
        return (
            'an encoder-only file where a decoder is needed; give the file that pre-training wrote, or put init_cfg '
            'on the backbone to start from the encoder and a fresh decoder')
    if any(name.split('.')[0] in DECODER for name in faulty):
        return (
            f'another decoder: the file is a {checkpoint}; set neck.embed_dim and neck.depth, and the patch size and '
            'channels that the decoder predicts')
    if 'norm.weight' in faulty:
        if 'fc_norm.weight' in checkpoint.tensors:
            return (
                'a fine-tuned file: with mean pooling, fc_norm took the place of the final norm; load it with '
                "out_type='avg_featmap' or 'featmap', or give the pre-trained file")
        return (
            "a file without final norm, as detectors and segmentors write (out_type='featmap'); load it with "
            "out_type='featmap', or give the pre-trained file")
    if any('.rel_pos' in name for name in faulty):
        return 'a file with relative positions of another kind than the model has; set rel_pos and window_size alike'
    return f'a partial file, or a ViT with other parts than these of {checkpoint}'

