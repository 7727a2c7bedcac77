"""What the shapes of weights do not show: heads, the grid of a rectangle, pixel statistics, what is predicted."""

import ast

from mae_mm.checkpoint.trust import check_settings
from mae_mm.models.archs import ARCHS

MAX_TEXT = 1 << 18  # characters of a config; usual ones have ten thousand, and parsing takes a thousand bytes for each


def settings_of_config_text(text: str) -> dict:
    """Settings of the `mae_mm` model in a config that mmengine stored, else {}. Nothing in it is executed."""
    try:
        return check_settings(_settings_of_model(text) if len(text) <= MAX_TEXT else {})
    except Exception:  # where its stack ends, the parser fails in any way
        return {}


def _settings_of_model(text: str) -> dict:
    values = {node.targets[0].id: node.value for node in ast.parse(text).body
              if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') in ('model', 'data_preprocessor')}
    model = _literal(values['model'])
    backbone = model['backbone']
    if backbone['type'] not in ('mae_mm.ViT', 'ViT'):
        return {}
    arch = backbone.get('arch', 'base')
    settings = dict(
        grid=_grid(backbone.get('img_size', 224), backbone.get('patch_size', 16)),
        num_heads=(ARCHS[arch] if isinstance(arch, str) else arch)['num_heads'])
    if backbone.get('window_size'):
        settings['window_size'] = backbone['window_size']
    if model.get('type') in ('mae_mm.MAE', 'MAE'):
        settings.update(
            decoder_num_heads=model['neck'].get('num_heads', 16), mask_ratio=model.get('mask_ratio', 0.75),
            norm_pix_loss=model.get('norm_pix_loss', True))
    pixels = model.get('data_preprocessor') or (  # mmpretrain's stands beside the model
        _literal(values['data_preprocessor']) if 'data_preprocessor' in values else None)
    settings.update({key: value for key, value in (pixels or {}).items()
                     if key in ('mean', 'std') and value is not None})
    return settings


def settings_of_huggingface(config: dict) -> dict:
    """The same from the `config.json` of a ViTMAE; {} from {}."""
    names = dict(
        num_heads='num_attention_heads', decoder_num_heads='decoder_num_attention_heads', mask_ratio='mask_ratio',
        norm_pix_loss='norm_pix_loss')
    settings = {ours: config.get(theirs) for ours, theirs in names.items()}
    if 'image_size' in config and 'patch_size' in config:
        settings['grid'] = _grid(config['image_size'], config['patch_size'])
    return {name: value for name, value in settings.items() if value is not None}


def _grid(img_size: int | list, patch_size: int) -> tuple[int, int]:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height // patch_size, width // patch_size


def _literal(node: ast.expr) -> object:
    """The value of a literal in which dicts may be written dict(key=value)."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    return ast.literal_eval(node)
