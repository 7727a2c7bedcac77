"""Checkpoints that hold only data, but invented data: one documented error with the file's name, nothing loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import HEADS, assert_same, canonical, saved
from torch import Tensor, nn

from mae_mm.checkpoint import LoadReport, load_exactly, load_pretrained, read_checkpoint, write_checkpoint
from mae_mm.checkpoint.convert import convert
from mae_mm.checkpoint.settings import MAX_TEXT, settings_of_config_text

MODEL = "model = dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', {}), neck=dict(num_heads=2))"
PATCHES = 'backbone.patch_embed.proj.weight'


@pytest.fixture
def state(make_mae: Callable) -> dict[str, Tensor]:
    return dict(make_mae().state_dict())


@pytest.fixture
def load(make_mae: Callable, tmp_path: Path) -> Callable[[dict], LoadReport]:
    """A function that loads a state dict from a file; where that fails, the model stays as it was."""
    model = make_mae()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def load(state: dict) -> LoadReport:
        try:
            return load_pretrained(model, saved(dict(state_dict=state), tmp_path / 'x.pth'))
        except ValueError:
            assert_same(before, dict(model.state_dict()))
            raise
    return load


@pytest.mark.parametrize('text', [
    MODEL.format("arch='colossal'"), MODEL.format('patch_size=0'), MODEL.format("img_size='big'"),
    MODEL.format('img_size=-1'), MODEL.format('arch=5'), MODEL.format('')[:-25] + ')',
    MODEL.format('img_size=' + '-' * 200_000 + '1'), '-' * 200_000, 'a' + '.a' * 100_000, '(' * 200_000,
    MODEL.format('img_size=' + '9' * 5000), '\0', 5, None, ['model']], ids=lambda text: str(text)[-40:])
def test_a_text_that_is_not_a_plain_config_gives_no_settings(text: object, state: dict, tmp_path: Path) -> None:
    assert read_checkpoint(saved(dict(state_dict=state, meta=dict(cfg=text)), tmp_path / 'x.pth')).settings == {}


def test_a_text_that_would_take_minutes_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    text, parsed = MODEL.format(''), []
    monkeypatch.setattr('ast.parse', parsed.append)
    for tail in ('', ' ' * MAX_TEXT):
        assert settings_of_config_text(text + tail) == {}
    assert parsed == [text]


@pytest.mark.parametrize('settings', [
    'str', ['grid'], dict(grid='xx'), dict(grid=5), dict(grid=(4, )), dict(grid=(0, 4)), dict(grid=('4', 4)),
    dict(num_heads='2'), dict(num_heads=0), dict(decoder_num_heads=1.5), dict(mask_ratio=float('nan')),
    dict(mask_ratio=75), dict(norm_pix_loss='yes')], ids=str)
def test_impossible_settings(settings: object, state: dict, tmp_path: Path) -> None:
    path = saved(dict(state_dict=state, meta=dict(mae_mm=settings)), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth was not loaded: its settings'):
        read_checkpoint(path)


@pytest.mark.parametrize('config', [
    '[]', '"x"', '{"image_size": "big", "patch_size": 16}', '{"image_size": 224, "patch_size": 0}',
    '{"num_attention_heads": []}', '{', '[' * 100_000], ids=lambda text: text[:40])
def test_impossible_configs_of_transformers(config: str, make_mae: Callable, tmp_path: Path) -> None:
    write_checkpoint(canonical(make_mae(), **HEADS), tmp_path / 'vit_mae', 'huggingface')
    (tmp_path / 'vit_mae' / 'config.json').write_text(config)
    with pytest.raises(ValueError, match=r'vit_mae(/config\.json)? was not loaded'):
        read_checkpoint(tmp_path / 'vit_mae')


BAD = {
    'sparse': lambda tensor: torch.zeros_like(tensor).to_sparse(),
    'quantized': lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8),
    'meta': lambda tensor: tensor.to('meta'),
    'complex': lambda tensor: tensor.to(torch.complex64),
    'integer': lambda tensor: tensor.to(torch.int8),
    'nan': lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), float('nan')),
    'infinite': lambda tensor: tensor.clone().index_fill_(0, torch.tensor([0]), -float('inf')),
    'infinite as float32': lambda tensor: tensor.double().index_fill_(0, torch.tensor([0]), 1e300),
    'repeated': lambda tensor: tensor.flatten()[:1].expand(10 ** 12),
}


@pytest.mark.parametrize('kind, name', [
    *((kind, PATCHES) for kind in BAD), ('nan', 'backbone.norm.bias'), ('nan', 'neck.decoder_pred.weight'),
    ('repeated', 'backbone.blocks.1.attn.qkv.weight'), ('repeated', 'backbone.pos_embed')])
def test_what_is_not_a_weight_is_named(kind: str, name: str, state: dict, load: Callable) -> None:
    state[name] = BAD[kind](state[name])
    with pytest.raises(ValueError, match=rf'x\.pth was not loaded: {name} is not a valid weight: '):
        load(state)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_and_odd_tensors_of_other_parts_are_accepted(
        dtype: torch.dtype, state: dict, make_vit: Callable, tmp_path: Path) -> None:
    converted = {name: tensor.to(dtype) for name, tensor in state.items()}
    others = {'head.steps': torch.tensor(3), 'head.mask': torch.tensor(-float('inf')), 'x': torch.eye(5).to_sparse()}
    vit = make_vit()
    report = load_pretrained(vit, saved(dict(state_dict={**converted, **others}), tmp_path / 'x.pth'))
    assert others.keys() <= report.ignored.keys() and not report.new
    assert_same(dict(vit.state_dict()), {
        name.removeprefix('backbone.'): tensor.float() for name, tensor in converted.items() if 'backbone.' in name})


@pytest.mark.parametrize('change', [
    {'backbone.pos_embed': torch.zeros(32)}, {'backbone.pos_embed': torch.tensor(1.)},
    {'backbone.pos_embed': torch.zeros(1, 0, 32)}, {'backbone.pos_embed': torch.zeros(2, 17, 32)},
    {PATCHES: torch.zeros(32)}, {PATCHES: torch.tensor(1.)}, {PATCHES: torch.zeros(32, 0, 8, 8)},
    {'neck.decoder_pred.weight': torch.zeros(3)}, {'backbone.blocks.x.norm1.weight': torch.zeros(32)},
    {f'backbone.blocks.{"9" * 5000}.norm1.bias': torch.zeros(32)}, {'backbone.blocks': torch.zeros(3)},
    {'backbone.blocks.0.attn.qkv.weight': torch.tensor(1.)}, {'backbone.dist_token': torch.tensor(1.)}],
    ids=lambda change: f'{next(iter(change))[:40]}{tuple(next(iter(change.values())).shape)}')
def test_impossible_shapes(change: dict, state: dict, load: Callable) -> None:
    with pytest.raises(ValueError, match=r'x\.pth'):
        load({**state, **change})


def test_what_cannot_be_converted_is_named(state: dict, tmp_path: Path) -> None:
    del state['backbone.blocks.0.mlp.fc1.bias']
    path = saved(dict(state_dict=state, meta=dict(mae_mm=dict(num_heads=2))), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth cannot be written as huggingface: '):
        convert(str(path), str(tmp_path / 'out'), 'huggingface')
    with pytest.raises(ValueError, match='grid=5, which is not a valid grid'):
        convert(str(path), None, None, inspect=True, settings=dict(grid=5))


@pytest.mark.parametrize('kind', BAD)
def test_a_conv_backbone_is_as_strict(kind: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    good = {f'backbone.{name}': tensor + 1 for name, tensor in module.state_dict().items()}
    load_exactly(module, saved(good, tmp_path / 'x.pth'), 'backbone.')
    bad = {**good, 'backbone.0.weight': BAD[kind](good['backbone.0.weight'])}
    with pytest.raises(ValueError, match=r'x\.pth was not loaded: '):
        load_exactly(module, saved(bad, tmp_path / 'x.pth'), 'backbone.')
    assert_same({f'backbone.{name}': tensor for name, tensor in module.state_dict().items()}, good)


def test_a_mask_token_is_a_weight_too(make_mae: Callable, state: dict, tmp_path: Path) -> None:
    model = make_mae()
    del model.mask_token
    model.register_parameter('mask_token', nn.Parameter(torch.zeros(1, 1, 32)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state['mask_token'] = torch.full((1, 1, 32), float('nan'))
    with pytest.raises(ValueError, match=r'x\.pth was not loaded: mask_token is not a valid weight'):
        load_pretrained(model, saved(dict(state_dict=state), tmp_path / 'x.pth'))
    assert_same(before, dict(model.state_dict()))
