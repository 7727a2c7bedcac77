"""Names of a masked autoencoder's weights in every library, as pure functions.

The canonical names are those of the MAE authors' release, which are timm's for the encoder:

    cls_token  pos_embed  patch_embed.proj  blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}  norm
    fc_norm  head                             (fine-tuned with mean pooling: fc_norm takes the place of norm)
    decoder_embed  mask_token  decoder_pos_embed  decoder_blocks.N.{as above}  decoder_norm  decoder_pred

Position tables are part of the weights: weights trained with one table are useless with another. So tables are read and
written as stored, never recomputed, whatever their library's order of channels (mmpretrain's halves are swapped).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Rename = Callable[[str], str | None]  # None: not part of a masked autoencoder

ENCODER = ('cls_token', 'pos_embed', 'patch_embed', 'blocks', 'norm', 'fc_norm')
DECODER = (
    'decoder_embed', 'mask_token', 'decoder_pos_embed', 'decoder_blocks', 'decoder_norm', 'decoder_pred',
    'memory_norm')  # the last one of `mae_mm.CrossDecoder`

MOCO_V3 = 'base_encoder.'  # prefix of the encoder that MoCo v3 evaluates; the other one is momentum_encoder
# A format is recognised by the name of its patch embedding and the prefix before it.
PATCH_EMBEDS = {
    'patch_embed.proj': {'': 'timm', 'backbone.': 'mae_mm', MOCO_V3: 'timm'},
    'patch_embed.projection': {'': 'mmpretrain', 'backbone.': 'mmpretrain'},
    'embeddings.patch_embeddings.projection': {'': 'huggingface', 'vit.': 'huggingface'},
}
MMPRETRAIN_BLOCK = {
    'norm1': 'ln1', 'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj', 'norm2': 'ln2',
    'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1',
}
MMPRETRAIN = {
    'cls_token': 'backbone.cls_token', 'pos_embed': 'backbone.pos_embed',
    'patch_embed.proj': 'backbone.patch_embed.projection', 'norm': 'backbone.ln1', 'fc_norm': 'backbone.ln2',
    **{name: f'neck.{name}' for name in DECODER}, 'decoder_norm': 'neck.ln1', 'head': 'head.fc',
    **{f'blocks.#.{ours}': f'backbone.layers.#.{theirs}' for ours, theirs in MMPRETRAIN_BLOCK.items()},
    **{f'decoder_blocks.#.{ours}': f'neck.decoder_blocks.#.{theirs}' for ours, theirs in MMPRETRAIN_BLOCK.items()},
}

HUGGINGFACE_BLOCK = {
    'norm1': 'layernorm_before', 'norm2': 'layernorm_after', 'attn.proj': 'attention.output.dense',
    'attn.q': 'attention.attention.query', 'attn.k': 'attention.attention.key', 'attn.v': 'attention.attention.value',
    'mlp.fc1': 'intermediate.dense', 'mlp.fc2': 'output.dense',
}
HUGGINGFACE = {
    'cls_token': 'vit.embeddings.cls_token', 'pos_embed': 'vit.embeddings.position_embeddings',
    'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection', 'norm': 'vit.layernorm',
    **{name: f'decoder.{name}' for name in DECODER},
    **{f'blocks.#.{ours}': f'vit.encoder.layer.#.{theirs}' for ours, theirs in HUGGINGFACE_BLOCK.items()},
    **{f'decoder_blocks.#.{ours}': f'decoder.decoder_layers.#.{theirs}' for ours, theirs in HUGGINGFACE_BLOCK.items()},
}
# transformers 5 renamed its modules. It still saves the old names, except for the decoder's blocks.
TRANSFORMERS_5 = {
    'vit.layers.': 'vit.encoder.layer.', 'decoder.decoder_encoder.layer.': 'decoder.decoder_layers.',
    '.attention.q_proj.': '.attention.attention.query.', '.attention.k_proj.': '.attention.attention.key.',
    '.attention.v_proj.': '.attention.attention.value.', '.attention.o_proj.': '.attention.output.dense.',
    '.mlp.fc1.': '.intermediate.dense.', '.mlp.fc2.': '.output.dense.',
}


class Format(NamedTuple):
    """How a library names the weights."""

    read: Rename  # to the canonical names
    write: Rename  # and back
    splits_qkv: bool = False  # query, key and value are three layers
    wrapper: str | None = None  # written torch files hold the weights under this key


def to_canonical(tensors: Mapping[str, Tensor], form: Format, prefix: str = '') -> tuple[Tensors, Tensors]:
    """The masked autoencoder's weights (keys after `prefix`) under canonical names, and all others as they are."""
    names = {key: form.read(key.removeprefix(prefix)) for key in tensors if key.startswith(prefix)}
    known = {name: tensors[key] for key, name in names.items() if name}
    others = {key: tensor for key, tensor in tensors.items() if not names.get(key)}
    return (merge_qkv(known) if form.splits_qkv else known), others


def from_canonical(tensors: Mapping[str, Tensor], form: Format) -> Tensors:
    """Give weights the names of a library; a ValueError if it has no place for one of them."""
    tensors = split_qkv(tensors) if form.splits_qkv else tensors
    names = {name: form.write(name) for name in tensors}
    if homeless := [name for name, key in names.items() if key is None]:
        raise ValueError(
            f'the format has no place for {shorten(homeless)}; leave decoder and head out with encoder_only '
            '(--encoder-only), or write mae_mm, which has a place for everything')
    return {names[name]: tensor for name, tensor in tensors.items()}


def split_qkv(tensors: Mapping[str, Tensor]) -> Tensors:
    """`attn.qkv`, (3 D, …), becomes `attn.q`, `attn.k` and `attn.v`, (D, …) each, in memory of their own."""
    result = {name: tensor for name, tensor in tensors.items() if '.attn.qkv.' not in name}
    for name in [name for name in tensors if name not in result]:
        for part, chunk in zip('qkv', tensors[name].chunk(3), strict=True):
            result[name.replace('.attn.qkv.', f'.attn.{part}.')] = chunk.clone()
    return result


def merge_qkv(tensors: Mapping[str, Tensor]) -> Tensors:
    """Inverse of `split_qkv`. A layer of which a part is missing is left out, so that it counts as missing."""
    result = {name: tensor for name, tensor in tensors.items() if not re.search(r'\.attn\.[qkv]\.', name)}
    for name in tensors:
        parts = [name.replace('.attn.q.', f'.attn.{part}.') for part in 'qkv']
        if '.attn.q.' in name and all(part in tensors for part in parts):
            result[name.replace('.attn.q.', '.attn.qkv.')] = torch.cat([tensors[part] for part in parts])
    return result


def recognise(keys: Iterable[str], wrapper: str | None = None) -> tuple[str, str]:
    """The format of what `unwrap` returns, and the prefix of the encoder's keys ('' except for MoCo v3 and DINO)."""
    keys = list(keys)
    layers = '|'.join(map(re.escape, PATCH_EMBEDS))
    matches = [re.fullmatch(rf'(.*?\.)??({layers})(\.weight)?', key) for key in keys]  # the longest of the layers
    found = {match[1] or '': match[2] for match in matches if match}
    if not found:
        raise ValueError(
            f'it holds no ViT: none of its {len(keys)} tensors is a patch embedding (its keys: {shorten(keys)})')
    known = [prefix for prefix, layer in found.items() if prefix in PATCH_EMBEDS[layer]]
    if len(known) != 1:
        raise ValueError(
            f'its ViT has an unknown prefix: there are patch embeddings under {", ".join(map(repr, found))}; choose '
            f'one, e.g. prefix={next(iter(found))!r}')
    prefix, form = known[0], PATCH_EMBEDS[found[known[0]]][known[0]]
    if prefix == MOCO_V3 or (form == 'mae_mm' and wrapper in ('teacher', 'student')):
        return 'timm', prefix
    release = form == 'timm' and (wrapper == 'model' or any(key.startswith('decoder_') for key in keys))
    return 'mae' if release else form, ''


def shorten(names: Iterable[str], num: int = 4) -> str:
    names = list(names)
    return ', '.join(names[:num]) + (', …' if len(names) > num else '')


def _renaming(names: Mapping[str, str]) -> Rename:
    """A function from a table of layers and parameters, in which # is the number of a block."""
    def rename(key: str) -> str | None:
        number = re.search(r'\.(\d+)\.', key)
        template = key.replace(number[0], '.#.', 1) if number else key
        layer, _, leaf = template.rpartition('.')
        name = names.get(template) or (f'{names[layer]}.{leaf}' if layer in names else None)
        return name.replace('#', number[1]) if name and number else name

    return rename


def _reading(names: Mapping[str, str], normalise: Callable[[str], str]) -> Rename:
    """The inverse of `_renaming(names)`; `normalise` brings variants of a library's keys to one form before."""
    rename = _renaming({theirs: ours for ours, theirs in names.items()})
    stacks = {theirs.partition('#')[0]: ours.partition('#')[0] for ours, theirs in names.items() if '#' in ours}

    def read(key: str) -> str | None:
        key = normalise(key)
        stack = next((stack for stack in stacks if key.startswith(stack)), None)
        # Unknown parts of a block become blocks.N.<rest>, which loading refuses instead of ignoring.
        return rename(key) or (stack and stacks[stack] + key.removeprefix(stack))

    return read


def _read_release(key: str) -> str | None:
    """As it is, but for other heads than one linear layer: of linear probing, MoCo v3, DINO."""
    return key if key.split('.')[0] in (*ENCODER, *DECODER) or key in ('head.weight', 'head.bias') else None


def _read_mae_mm(key: str) -> str | None:
    part, _, name = key.replace('head.layers.head.', 'head.fc.').partition('.')
    if name in ('fc.weight', 'fc.bias') and part == 'head':
        return f'head.{name[3:]}'
    return name if name.split('.')[0] in dict(backbone=ENCODER, neck=DECODER).get(part, ()) else None


def _write_mae_mm(name: str) -> str:
    root, _, leaf = name.partition('.')
    return f'head.fc.{leaf}' if root == 'head' else f'neck.{name}' if root in DECODER else f'backbone.{name}'


def _mmpretrain_key(key: str) -> str:
    """Keys of a bare backbone, and of the other classification head, as those of a usual model."""
    key = key.replace('head.layers.head.', 'head.fc.')
    return key if key.startswith(('backbone.', 'neck.', 'head.')) else f'backbone.{key}'


def _huggingface_key(key: str) -> str:
    """Keys of a bare `ViTMAEModel`, and of transformers 5, as those of a `ViTMAEForPreTraining` of transformers 4."""
    key = key if key.startswith(('vit.', 'decoder.')) else f'vit.{key}'
    for new, old in TRANSFORMERS_5.items():
        key = key.replace(new, old)
    return key


FORMATS = {
    'mae_mm': Format(_read_mae_mm, _write_mae_mm, wrapper='state_dict'),
    'mae': Format(_read_release, lambda name: None if '.rel_pos' in name else name, wrapper='model'),
    'timm': Format(_read_release, lambda name: None if name.split('.')[0] in DECODER or '.rel_pos' in name else name),
    'mmpretrain': Format(_reading(MMPRETRAIN, _mmpretrain_key), _renaming(MMPRETRAIN), wrapper='state_dict'),
    'huggingface': Format(_reading(HUGGINGFACE, _huggingface_key), _renaming(HUGGINGFACE), splits_qkv=True),
}
