"""What the shapes of weights do not tell: attention heads, the grid of a rectangle, what the decoder predicts."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mae_mm.checkpoint.trust import check_settings
from mae_mm.models.vit import ARCHS

if TYPE_CHECKING:
    from mae_mm.checkpoint.contents import Checkpoint

DECODER_HEADS = {512: 16}  # of the published decoder, by width
MAX_TEXT = 1 << 18  # characters of a config; usual ones have ten thousand, and parsing takes a thousand bytes for each


def settings_of_config_text(text: str) -> dict:
    """Read the config that mmengine stores in a checkpoint, as data: nothing in it is run.

    Returns:
        Settings of a `mae_mm` model (see `Checkpoint`); {} for other models, or a text that is no plain config.
    """
    try:
        return check_settings(_settings_of_model(text) if len(text) <= MAX_TEXT else {})
    except Exception:  # the parser fails in all ways where its stack ends
        return {}


def _settings_of_model(text: str) -> dict:
    values = {
        node.targets[0].id: node.value for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    model = _literal(values['model'])
    backbone = model['backbone']
    if backbone['type'] not in ('mae_mm.ViT', 'ViT'):
        return {}
    arch, img_size = backbone.get('arch', 'base'), backbone.get('img_size', 224)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    patch_size = backbone.get('patch_size', 16)
    settings = dict(
        grid=(height // patch_size, width // patch_size),
        num_heads=(ARCHS[arch] if isinstance(arch, str) else arch)['num_heads'])
    if model.get('type') in ('mae_mm.MAE', 'MAE'):
        settings.update(
            decoder_num_heads=model['neck'].get('num_heads', 16), mask_ratio=model.get('mask_ratio', 0.75),
            norm_pix_loss=model.get('norm_pix_loss', True))
    return settings


def settings_of_huggingface(config: dict) -> dict:
    """The same from the `config.json` of a ViTMAE; {} from {}."""
    if not isinstance(config, dict):
        raise ValueError(f'its config.json holds a {type(config).__name__}, not settings')
    names = dict(
        num_heads='num_attention_heads', decoder_num_heads='decoder_num_attention_heads', mask_ratio='mask_ratio',
        norm_pix_loss='norm_pix_loss')
    settings = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    if 'image_size' in config and 'patch_size' in config:
        size, patch_size = config['image_size'], config['patch_size']
        height, width = (size, size) if isinstance(size, int) else size
        settings['grid'] = (height // patch_size, width // patch_size)
    return settings


def huggingface_config(checkpoint: Checkpoint) -> dict:
    """The `config.json` with which transformers builds the model that these weights fit.

    Raises:
        ValueError: if the number of heads is not known, or a table is no square (transformers makes only squares).
    """
    grid, tensors = checkpoint.grid, checkpoint.tensors
    if grid is None or grid[0] != grid[1]:
        raise ValueError(
            f'{checkpoint.source}: the position table is {grid or checkpoint.num_positions}, and transformers builds '
            'square ones only')
    config = dict(
        architectures=['ViTMAEForPreTraining' if checkpoint.has_decoder else 'ViTMAEModel'],
        model_type='vit_mae',
        hidden_size=checkpoint.embed_dim,
        num_hidden_layers=checkpoint.depth,
        num_attention_heads=_heads(checkpoint, 'num_heads', checkpoint.embed_dim),
        intermediate_size=len(tensors['blocks.0.mlp.fc1.bias']),
        image_size=grid[0] * checkpoint.patch_size,
        patch_size=checkpoint.patch_size,
        num_channels=checkpoint.in_chans,
        layer_norm_eps=1e-6,
        mask_ratio=checkpoint.settings.get('mask_ratio', 0.75),
        norm_pix_loss=checkpoint.settings.get('norm_pix_loss', True))
    if checkpoint.has_decoder:
        width = tensors['decoder_embed.weight'].shape[0]
        config.update(
            decoder_hidden_size=width,
            decoder_num_hidden_layers=checkpoint.decoder_depth,
            decoder_num_attention_heads=_heads(checkpoint, 'decoder_num_heads', width),
            decoder_intermediate_size=len(tensors['decoder_blocks.0.mlp.fc1.bias']))
    return config


def _heads(checkpoint: Checkpoint, key: str, width: int) -> int:
    """As the file says, or as the published model of this width has."""
    published = DECODER_HEADS if key == 'decoder_num_heads' else {
        arch['embed_dim']: arch['num_heads'] for arch in ARCHS.values()}
    heads = checkpoint.settings.get(key, published.get(width))
    if heads is None:
        raise ValueError(
            f'{checkpoint.source} does not say how many attention heads share its width of {width}, and no published '
            f'model has that width; set {key} (--set {key}=N)')
    return heads


def _literal(node: ast.expr) -> object:
    """The value of a literal in which dicts may be written dict(key=value)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    return ast.literal_eval(node)
