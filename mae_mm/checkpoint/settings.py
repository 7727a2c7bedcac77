"""What the shapes of weights do not show: heads, the grid of a rectangle, pixel statistics, what is predicted."""

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from mae_mm.checkpoint.files import read_content
from mae_mm.checkpoint.trust import SETTINGS, check_settings, contents_of
from mae_mm.models.archs import ARCHS

# Options of the transforms that read images.
READING = ('channels', 'array_order', 'dtype', 'bands', 'nodata', 'window')
STEMS_FROM = 'mae_mm/stems_from'  # in mmengine's message hub, which is in each checkpoint of a training
MAX_TEXT = 1 << 18  # characters of a config; usual ones have ten thousand, and parsing takes a thousand bytes for each


def settings_of_meta(meta: Mapping) -> dict:
    """Settings in the `meta` of OpenMMLab's files: what this project wrote there, else those of the config; classes."""
    settings = meta.get('mae_mm') or settings_of_config_text(meta.get('cfg', ''))
    with suppress(KeyError, TypeError):  # files of other projects hold anything
        if SETTINGS['classes'](classes := meta['dataset_meta']['classes']):
            return {'classes': list(classes), **settings}
    return settings


def origins_of(content: Mapping, settings: Mapping) -> dict:
    """`stems_from`: what was fetched as `content`, before it what trainings recorded, before it `settings`."""
    found = list(settings.get('stems_from') or ())
    with suppress(KeyError, TypeError, AttributeError):  # files of other projects hold anything
        found += content['message_hub']['runtime_info'][STEMS_FROM]
    with suppress(KeyError, TypeError):
        found.append(content['meta']['origin'])
    return dict(stems_from=list(dict.fromkeys(found))) if SETTINGS['stems_from'](found) else {}


def settings_of_config_text(text: str) -> dict:
    """Settings of the `mae_mm` model in a config that mmengine stored, else {}. Nothing in it is executed."""
    try:
        return check_settings(_settings_of_model(text) if len(text) <= MAX_TEXT else {})
    except Exception:  # where its stack ends, the parser fails in any way
        return {}


def recipe_of_config_text(text: str) -> dict:
    """Optimizer, learning rate, batch, length and data of a config that mmengine stored, where plain values."""
    found = {}
    with suppress(Exception):  # configs of other projects hold anything
        values = _assigned(text if len(text) <= MAX_TEXT else '')
        for name, path in dict(
                optimizer='optim_wrapper.optimizer.type', lr='optim_wrapper.optimizer.lr',
                batch_size='train_dataloader.batch_size', max_epochs='train_cfg.max_epochs',
                max_iters='train_cfg.max_iters', data='train_dataloader.dataset.data_root').items():
            with suppress(Exception):
                first, *keys = path.split('.')
                value = _literal(values[first])
                for key in keys:
                    value = value[key]
                found[name] = Path(value).name if name == 'data' else value  # not where it is on this machine
    return found


def stored_config(path: str | Path) -> Config:
    """The model and the validation pipeline of the config that mmengine stored in a checkpoint of pre-training.

    Nothing in it is executed, and only types of this project may be built from it.
    """
    content, _ = read_content(path)
    with contents_of(path, 'has no config that can be used; give it with --config'):
        text = (content.get('meta') or {}).get('cfg')
        if not text or len(text) > MAX_TEXT:
            raise ValueError(f'{path} does not contain its config; give it with --config')
        values = _assigned(text)
        model = _literal(values['model'])
        if 'neck' not in model or 'head' in model:
            raise ValueError(f'{path} is a checkpoint of {model["type"]}, which is not a masked autoencoder and '
                             'reconstructs nothing; give the file that pre-training wrote')
        pipeline = _literal(values['val_dataloader'])['dataset']['pipeline']
        if foreign := [name for name in _types([model, pipeline]) if not re.fullmatch(r'mae_mm\.[A-Z]\w*', str(name))]:
            raise ValueError(f'{path}: types of other libraries ({foreign[0]}) are not built from a stored config; '
                             'give the config with --config')
    return Config(dict(model=model, val_dataloader=dict(dataset=dict(pipeline=pipeline))))


def _types(value: object) -> Iterator[object]:
    """What a config wants to build."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _types(part)
    if isinstance(value, dict) and 'type' in value:
        yield value['type']


def _assigned(text: str) -> dict[str, ast.expr]:
    """What stands behind NAME = in a config."""
    return {getattr(node.targets[0], 'id', ''): node.value for node in ast.parse(text).body
            if isinstance(node, ast.Assign)}


def _settings_of_model(text: str) -> dict:
    values = _assigned(text)
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
    if not isinstance(backbone.get('in_chans', 3), int):
        settings['bands'] = backbone['in_chans']
    if model.get('type') in ('mae_mm.MAE', 'MAE'):
        settings.update(
            decoder_num_heads=model['neck'].get('num_heads', 16), mask_ratio=model.get('mask_ratio', 0.75),
            norm_pix_loss=model.get('norm_pix_loss', True))
    pixels = model.get('data_preprocessor') or (  # mmpretrain's stands beside the model
        _literal(values['data_preprocessor']) if 'data_preprocessor' in values else None)
    settings.update({key: value for key, value in (pixels or {}).items()
                     if key in ('mean', 'std', 'clip', 'per_image') and value is not None})
    with suppress(Exception):  # data sets and pipelines of other projects hold anything
        for step in _literal(values['test_dataloader'])['dataset']['pipeline']:
            resize = step.get('scale' if step['type'].endswith('ResizeEdge') else 'resize')
            if SETTINGS['resize'](resize):
                settings['resize'] = resize
    with suppress(Exception):  # of other data, of any form
        if reading := reading_of(_literal(values['val_dataloader'])['dataset']['pipeline'][0]):
            settings['reading'] = reading
    return settings


def reading_of(step: dict) -> dict:
    """How a transform reads the pixels of files: {} for 8-bit photographs."""
    if not step['type'].startswith('mae_mm.Load'):
        return {}
    reading = {key: value for key, value in step.items() if key in READING}
    return dict(channels='unchanged', dtype='keep') | reading if step['type'] == 'mae_mm.LoadImage' else reading


def settings_of_huggingface(config: dict) -> dict:
    """The same from the configs of transformers; {} from {}."""
    names = dict(
        num_heads='num_attention_heads', decoder_num_heads='decoder_num_attention_heads', mask_ratio='mask_ratio',
        norm_pix_loss='norm_pix_loss', stems_from='stems_from')
    settings = {ours: config.get(theirs) for ours, theirs in names.items()}
    if 'image_size' in config and 'patch_size' in config:
        settings['grid'] = _grid(config['image_size'], config['patch_size'])
    settings.update(_pixels(config, 'image_mean', 'image_std'))
    return {name: value for name, value in settings.items() if value is not None}


def settings_of_timm(config: dict) -> dict:
    """Pixel statistics from the `config.json` of timm; {} from {}."""
    return _pixels(config.get('pretrained_cfg', {}), 'mean', 'std')


def _pixels(config: dict, mean: str, std: str) -> dict:
    """Mean and deviation, there of pixels in [0, 1]."""
    return {ours: [255 * value for value in config[theirs]] for ours, theirs in (('mean', mean), ('std', std))
            if theirs in config}


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
