"""Checkpoints that hold only data, but data that were made up: one documented error, with the file's name."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import HEADS, saved
from torch import Tensor, nn

from mae_mm.checkpoint import load_exactly, load_pretrained, read_checkpoint, write_checkpoint
from mae_mm.checkpoint.convert import convert
from mae_mm.checkpoint.settings import settings_of_config_text

MODEL = "model = dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', {}), neck=dict(num_heads=2))"
SPARSE = torch.eye(5).to_sparse()


def quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8)


def load(make_mae: Callable, state: dict, path: Path, **content: object) -> None:
    load_pretrained(make_mae(), saved(dict(state_dict=state, **content), path))


@pytest.fixture
def state(make_mae: Callable) -> dict[str, Tensor]:
    return dict(make_mae().state_dict())


@pytest.mark.parametrize('text', [
    MODEL.format("arch='colossal'"), MODEL.format('patch_size=0'), MODEL.format("img_size='big'"),
    MODEL.format('img_size=-1'), MODEL.format('arch=5'), MODEL.format('')[:-25] + ')',
    MODEL.format('img_size=' + '-' * 200_000 + '1'), '-' * 200_000, 'a' + '.a' * 200_000, '(' * 200_000,
    'x = 1\n' * 10 ** 6, MODEL.format('img_size=' + '9' * 5000), '\0', 5, None, ['model']],
    ids=lambda text: str(text)[-40:])
def test_a_text_that_is_no_plain_config_tells_nothing(
        text: object, make_mae: Callable, state: dict, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert settings_of_config_text(text) == {}
    assert time.monotonic() - begun < 5
    load(make_mae, state, tmp_path / 'x.pth', meta=dict(cfg=text))


@pytest.mark.parametrize('settings', [
    'str', ['grid'], dict(grid='xx'), dict(grid=5), dict(grid=(4, )), dict(grid=(0, 4)), dict(grid=('4', 4)),
    dict(num_heads='2'), dict(num_heads=0), dict(decoder_num_heads=1.5), dict(mask_ratio=float('nan')),
    dict(mask_ratio=75), dict(norm_pix_loss='yes')], ids=str)
def test_settings_that_cannot_be_meant(settings: object, state: dict, tmp_path: Path) -> None:
    path = saved(dict(state_dict=state, meta=dict(mae_mm=settings)), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth was not loaded: its settings'):
        read_checkpoint(path)


@pytest.mark.parametrize('config', [
    '[]', '"x"', '{"image_size": "big", "patch_size": 16}', '{"image_size": 224, "patch_size": 0}',
    '{"num_attention_heads": []}', '{', '[' * 100_000], ids=lambda text: text[:40])
def test_a_config_of_transformers_that_cannot_be_meant(config: str, state: dict, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(dict(model=state_of_release(state)), tmp_path / 'x.pth'))
    write_checkpoint(replace(checkpoint, settings=HEADS), tmp_path / 'vit_mae', 'huggingface')
    (tmp_path / 'vit_mae' / 'config.json').write_text(config)
    with pytest.raises(ValueError, match=r'vit_mae(/config\.json)? was not loaded'):
        read_checkpoint(tmp_path / 'vit_mae')


def state_of_release(state: dict) -> dict:
    return {name.removeprefix('backbone.').removeprefix('neck.'): tensor for name, tensor in state.items()}


BAD = {
    'sparse': lambda tensor: torch.zeros_like(tensor).to_sparse(),
    'quantized': quantized,
    'meta': lambda tensor: tensor.to('meta'),
    'complex': lambda tensor: tensor.to(torch.complex64),
    'integer': lambda tensor: tensor.to(torch.int8),
    'nan': lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), float('nan')),
    'infinite': lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), -float('inf')),
    'infinite as float32': lambda tensor: tensor.double().index_fill_(0, torch.tensor([0]), 1e300),
    'repeated': lambda tensor: tensor.flatten()[:1].expand(10 ** 12),
}


@pytest.mark.parametrize('name', ['backbone.pos_embed', 'backbone.patch_embed.proj.weight', 'backbone.norm.bias',
                                  'backbone.blocks.1.attn.qkv.weight', 'neck.decoder_pred.weight'])
@pytest.mark.parametrize('kind', BAD)
def test_what_is_no_weight_is_named(kind: str, name: str, state: dict, make_mae: Callable, tmp_path: Path) -> None:
    state[name] = BAD[kind](state[name])
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf'x\.pth was not loaded: {name} is not a valid weight: '):
        load(make_mae, state, tmp_path / 'x.pth')
    assert time.monotonic() - begun < 10


def test_halves_doubles_and_foreign_parts_are_welcome(state: dict, make_mae: Callable, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        halves = {name: tensor.to(dtype) for name, tensor in state.items()}
        foreign = {'head.steps': torch.tensor(3), 'head.mask': torch.tensor(-float('inf')), 'ema.x': SPARSE}
        load(make_mae, {**halves, **foreign}, tmp_path / 'x.pth')


@pytest.mark.parametrize('change', [
    {'backbone.pos_embed': torch.zeros(32)}, {'backbone.pos_embed': torch.tensor(1.)},
    {'backbone.pos_embed': torch.zeros(1, 0, 32)}, {'backbone.pos_embed': torch.zeros(2, 17, 32)},
    {'backbone.patch_embed.proj.weight': torch.zeros(32)}, {'backbone.patch_embed.proj.weight': torch.tensor(1.)},
    {'backbone.patch_embed.proj.weight': torch.zeros(32, 0, 8, 8)}, {'neck.decoder_pred.weight': torch.zeros(3)},
    {'backbone.blocks.x.norm1.weight': torch.zeros(32)}, {f'backbone.blocks.{"9" * 5000}.norm1.bias': torch.zeros(32)},
    {'backbone.blocks': torch.zeros(3)}, {'backbone.blocks.0.attn.qkv.weight': torch.tensor(1.)}],
    ids=lambda change: f'{next(iter(change))[:40]}{tuple(next(iter(change.values())).shape)}')
def test_shapes_that_make_no_sense(change: dict, state: dict, make_mae: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'x\.pth'):
        load(make_mae, {**state, **change}, tmp_path / 'x.pth')


def test_what_cannot_be_converted_is_named(state: dict, tmp_path: Path) -> None:
    del state['backbone.blocks.0.mlp.fc1.bias']
    path = saved(dict(state_dict=state, meta=dict(mae_mm=dict(num_heads=2))), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth cannot be written as huggingface: '):
        convert(str(path), str(tmp_path / 'out'), 'huggingface')
    with pytest.raises(ValueError, match="--set grid=5: '5' is not a valid grid"):
        convert(str(path), None, None, inspect=True, settings=['grid=5'])


def test_a_conv_backbone_is_as_strict(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    good = {f'backbone.{name}': tensor for name, tensor in module.state_dict().items()}
    load_exactly(module, saved(good, tmp_path / 'x.pth'), 'backbone.')
    for kind in BAD:
        bad = {**good, 'backbone.0.weight': BAD[kind](good['backbone.0.weight'])}
        with pytest.raises(ValueError, match=r'x\.pth was not loaded: '):
            load_exactly(module, saved(bad, tmp_path / 'x.pth'), 'backbone.')
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


def test_a_mask_token_is_a_weight_too(make_mae: Callable, state: dict, tmp_path: Path) -> None:
    model = make_mae()
    del model.mask_token
    model.register_parameter('mask_token', nn.Parameter(torch.zeros(1, 1, 32)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state['mask_token'] = torch.full((1, 1, 32), float('nan'))
    path = saved(dict(state_dict=state), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth was not loaded: mask_token is not a valid weight'):
        load_pretrained(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # nothing was loaded
