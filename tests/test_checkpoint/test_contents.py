"""Names, formats, conversion. Other libraries judge the names in test_checkpoint_foreign.py."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.checkpoints import HEADS, assert_same, canonical, saved
from torch import Tensor

from mae_mm.checkpoint import FORMATS, Checkpoint, load_pretrained, read_checkpoint
from mae_mm.checkpoint import write_checkpoint as write
from mae_mm.checkpoint.convert import convert
from mae_mm.checkpoint.formats import HUGGINGFACE_BLOCK, PATCH_EMBEDS, Format, merge_qkv, recognise, split_qkv
from mae_mm.checkpoint.settings import settings_of_config_text


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('part', ['full', 'encoder'])
@pytest.mark.parametrize('form', FORMATS)
def test_round_trip(make_mae: Callable, tmp_path: Path, form: str, part: str, dtype: torch.dtype) -> None:
    full = canonical(make_mae().to(dtype), **HEADS)
    checkpoint = full if part == 'full' else full.encoder_only()
    if part == 'full' and FORMATS[form].write('mask_token') is None:
        with pytest.raises(ValueError, match=rf'{form}: the format has no place for mask_token.*--encoder-only'):
            write(checkpoint, tmp_path / 'x', form)
        return
    write(checkpoint, tmp_path / 'x', form)
    there = read_checkpoint(tmp_path / 'x')
    assert there.format == form
    assert there.has_decoder == (part == 'full')
    assert not there.others
    if form in ('mae_mm', 'mmpretrain'):
        assert there.settings == HEADS
    write(there, tmp_path / 'back.pth', 'mae_mm')
    assert_same(checkpoint.tensors, read_checkpoint(tmp_path / 'back.pth').tensors)


@pytest.mark.parametrize('form', ['mae_mm', 'mae', 'timm', 'mmpretrain'])
def test_round_trip_of_a_fine_tuned_model(make_vit: Callable, tmp_path: Path, form: str) -> None:
    head = {'head.weight': torch.rand(3, 32), 'head.bias': torch.rand(3)}
    tensors = {**make_vit(out_type='avg_featmap').state_dict(), **head}
    write(Checkpoint(tensors), tmp_path / 'x.safetensors', form)
    assert_same(tensors, read_checkpoint(tmp_path / 'x.safetensors').tensors)


def test_huggingface_has_no_place_for_fc_norm(make_vit: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no place for fc_norm\.weight, fc_norm\.bias; '):
        write(canonical(make_vit(out_type='avg_featmap'), **HEADS), tmp_path / 'x', 'huggingface')


@pytest.mark.parametrize('form', ['mae', 'timm', 'mmpretrain', 'huggingface'])
def test_only_we_have_relative_positions(make_vit: Callable, tmp_path: Path, form: str) -> None:
    with pytest.raises(ValueError, match=r'no place for blocks\.0\.attn\.rel_pos_.* write mae_mm'):
        write(canonical(make_vit(rel_pos=True), **HEADS), tmp_path / 'x', form)


def test_huggingface_needs_heads_and_a_square(make_vit: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'does not give num_attention_heads.* 32 wide.*--set num_heads=N'):
        write(canonical(make_vit()), tmp_path / 'x', 'huggingface')
    with pytest.raises(ValueError, match=r'\(2, 4\), and transformers builds square ones only'):
        write(canonical(make_vit(img_size=(16, 32)), grid=(2, 4), **HEADS), tmp_path / 'x', 'huggingface')
    assert not (tmp_path / 'x').exists()


def test_split_qkv_by_hand() -> None:
    tensors = {'blocks.0.attn.qkv.bias': torch.tensor([1., 2., 3., 4., 5., 6.]), 'norm.bias': torch.zeros(2)}
    parts = split_qkv(tensors)
    assert parts['blocks.0.attn.k.bias'].tolist() == [3, 4]
    assert parts['blocks.0.attn.v.bias'].untyped_storage().nbytes() == 8  # a view would write all three into the file
    assert_same(merge_qkv(parts), tensors)
    del parts['blocks.0.attn.k.bias']
    assert merge_qkv(parts).keys() == {'norm.bias'}


def transformers_5(tensors: dict[str, Tensor], saved_names: bool) -> dict[str, Tensor]:
    """Names of transformers 5.23, written down from it: of its modules, or of the files that it saves."""
    block = HUGGINGFACE_BLOCK if saved_names else {
        'norm1': 'layernorm_before', 'norm2': 'layernorm_after', 'attn.q': 'attention.q_proj',
        'attn.k': 'attention.k_proj', 'attn.v': 'attention.v_proj', 'attn.proj': 'attention.o_proj',
        'mlp.fc1': 'mlp.fc1', 'mlp.fc2': 'mlp.fc2'}
    stacks = dict(
        blocks='vit.encoder.layer' if saved_names else 'vit.layers',
        decoder_blocks='decoder.decoder_encoder.layer' if saved_names else 'decoder.decoder_layers')
    rest = {
        'cls_token': 'vit.embeddings.cls_token', 'pos_embed': 'vit.embeddings.position_embeddings',
        'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection', 'norm': 'vit.layernorm'}
    renamed = {}
    for name, tensor in split_qkv(tensors).items():
        stack, *inside = name.split('.')
        layer, _, leaf = name.rpartition('.')
        if stack in stacks:
            key = f'{stacks[stack]}.{inside[0]}.{block[".".join(inside[1:-1])]}.{leaf}'
        elif name in rest or layer in rest:
            key = rest[name] if name in rest else f'{rest[layer]}.{leaf}'
        else:
            key = f'decoder.{name}'
        renamed[key] = tensor
    return renamed


@pytest.mark.parametrize('saved_names', [False, True])
def test_transformers_5_is_read(make_mae: Callable, tmp_path: Path, saved_names: bool) -> None:
    tensors = canonical(make_mae()).tensors
    checkpoint = read_checkpoint(saved(transformers_5(tensors, saved_names), tmp_path / 'x'))
    assert checkpoint.format == 'huggingface'
    assert_same(checkpoint.tensors, tensors)


@pytest.mark.parametrize('wrap', [
    lambda state: dict(state_dict={f'module.{key}': value for key, value in state.items()}),
    lambda state: dict(state_dict={key.replace('backbone.', 'backbone._orig_mod.'): v for key, v in state.items()}),
    lambda state: dict(ema_state_dict={**{f'module.{key}': v for key, v in state.items()}, 'steps': torch.tensor(3)}),
    lambda state: dict(state_dict=state, ema_state_dict={key: 0 * value for key, value in state.items()}, epoch=3),
    lambda state: dict(model={key[9:]: value for key, value in state.items()}, optimizer={}, scaler=None),
    lambda state: {key[9:]: value for key, value in state.items()},
    lambda state: dict(model={**{key[9:]: value for key, value in state.items()}, 'head.0.running_mean': torch.rand(3),
                              'head.0.num_batches_tracked': torch.tensor(3), 'head.1.weight': torch.rand(3, 32)}),
    lambda state: {**state, 'head.fc.weight': torch.rand(3, 32), 'head.fc.bias': torch.rand(3)},
    lambda state: {**state, 'roi_head.x.weight': torch.rand(3), 'neck.fpn_convs.0.conv.weight': torch.rand(3)},
])
def test_wrapped_encoders_are_found(make_vit: Callable, tmp_path: Path, wrap: Callable) -> None:
    vit, copy = make_vit(), make_vit()
    content = wrap({f'backbone.{key}': value for key, value in vit.state_dict().items()})
    load_pretrained(copy, saved(content, tmp_path / 'misnamed.safetensors'))
    assert_same(vit.state_dict(), copy.state_dict())


@pytest.mark.parametrize('keys, match', [
    (['student.vit.{}'], r"unknown prefix.*'student\.vit\.'.*prefix='student\.vit\.'"),
    (['a.{}', 'b.{}'], r"unknown prefix.*'a\.', 'b\.'"),
    (['{}', 'backbone.{}'], r"unknown prefix.*'', 'backbone\.'"),
    (['{}_'], 'holds no ViT: none of its 30 tensors is a patch embedding .its keys: cls_token_, '),
])
def test_unknown_prefix(make_vit: Callable, tmp_path: Path, keys: list[str], match: str) -> None:
    state = make_vit().state_dict()
    path = saved({key.format(name): value for key in keys for name, value in state.items()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=match):
        read_checkpoint(path)
    prefix = keys[0].removesuffix('{}')
    if prefix and prefix in keys[0] and '_' not in prefix:
        assert_same(read_checkpoint(path, prefix).tensors, dict(state))


def test_an_unknown_wrapper_is_found(make_vit: Callable, tmp_path: Path) -> None:
    state = make_vit().state_dict()
    path = saved(dict(epoch=3, weights=state, optimizer=dict(state={0: dict(step=torch.tensor(1.0))})), tmp_path / 'x')
    assert_same(read_checkpoint(path).tensors, dict(state))
    with pytest.raises(ValueError, match=r"no tensors; its first keys: \['left', 'right'\]"):
        read_checkpoint(saved(dict(left=state, right=state), tmp_path / 'two'))
    with pytest.raises(ValueError, match=r"no tensors .*'encoder\.'; its first keys: \['cls_token'"):
        read_checkpoint(path, prefix='encoder.')


@pytest.mark.parametrize('layer', ['proj', 'patch.kernel'])
def test_a_new_format_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layer: str) -> None:
    known = ['cls_token', 'patch_embed.proj.weight', 'blocks.0.attn.proj.weight', 'patch_kernel']
    assert recognise(known) == ('timm', '')
    names = {'patch_embed.proj.weight': layer, 'patch_embed.proj.bias': 'bias'}
    monkeypatch.setitem(PATCH_EMBEDS, layer, {'': 'new'})
    monkeypatch.setitem(FORMATS, 'new', Format(
        {there: here for here, there in names.items()}.get, names.get, wrapper='net'))
    assert recognise(known) == ('timm', '')
    assert recognise([layer, 'blocks.0.attn.proj.weight', f'{layer}xweight']) == ('new', '')
    assert recognise([f'{layer}.weight']) == ('new', '')
    tensors = {name: torch.rand(2, 3, 4, 4) for name in names}
    write(Checkpoint(tensors), tmp_path / 'new.pth', 'new')
    assert set(torch.load(tmp_path / 'new.pth')['net']) == {layer, 'bias'}
    assert_same(read_checkpoint(tmp_path / 'new.pth').tensors, tensors)


def test_settings_of_a_config_are_read_and_not_run(tmp_path: Path) -> None:
    text = (
        "import os\nmodel = dict(backbone=dict(arch='large', img_size=(32, 64), type='mae_mm.ViT'),\n"
        "    neck={'type': 'mae_mm.MAEDecoder', 'num_heads': 4}, mask_ratio=0.6, type='mae_mm.MAE',\n"
        "    data_preprocessor=dict(mean=[7, 8, 9.5], std=None))\n"
        f"os.mkdir({str(tmp_path / 'run')!r})\n")
    assert settings_of_config_text(text) == dict(
        grid=(2, 4), num_heads=16, decoder_num_heads=4, mask_ratio=0.6, norm_pix_loss=True, mean=[7, 8, 9.5])
    assert not (tmp_path / 'run').exists()
    classifier = (
        "model = dict(backbone=dict(type='mae_mm.ViT', img_size=32, window_size=7))\n"
        "data_preprocessor = dict(num_classes=3, std=[1, 2, 3])")
    assert settings_of_config_text(classifier) == dict(grid=(2, 2), num_heads=12, window_size=7, std=[1, 2, 3])
    for step in ("type='mae_mm.LoadResizeCenterCrop', size=32, resize=40", "type='ResizeEdge', scale=40, edge='short'"):
        loader = f'\ntest_dataloader = dict(dataset=dict(pipeline=[dict(type="A", scale=2), dict({step})]))'
        assert settings_of_config_text(classifier + loader)['resize'] == 40
    assert 'resize' not in settings_of_config_text(classifier + '\ntest_dataloader = f(x)')
    for other in ('', 'model = 1', "model = dict(backbone=dict(type='ResNet'))", 'model = f(x)', 'def', 'a, b = 1, 2'):
        assert settings_of_config_text(other) == {}


@pytest.mark.parametrize(('form', 'config', 'text'), [
    ('huggingface', 'preprocessor_config.json', '{"image_mean": [0.5, 0.4, 0.2], "image_std": [0.1, 0.2, 1]}'),
    ('timm', 'config.json', '{"pretrained_cfg": {"mean": [0.5, 0.4, 0.2], "std": [0.1, 0.2, 1]}}')])
def test_pixel_statistics_of_other_libraries(
    make_mae: Callable, tmp_path: Path, form: str, config: str, text: str,
) -> None:
    """Theirs are of pixels in [0, 1]."""
    write(canonical(make_mae(), **HEADS).encoder_only(), tmp_path if form == 'huggingface' else (
        tmp_path / 'model.safetensors'), form)
    assert not {'mean', 'std'} & read_checkpoint(tmp_path).settings.keys()
    (tmp_path / config).write_text(text)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.format == form
    assert (checkpoint.settings['mean'], checkpoint.settings['std']) == ([127.5, 102, 51], [25.5, 51, 255])


def test_convert_says_what_it_does(make_mae: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = {**make_mae().state_dict(), 'roi_head.bias': torch.zeros(3)}
    path = saved(dict(state_dict=state), tmp_path / 'in.pth')
    convert(str(path), str(tmp_path / 'out'), 'huggingface', settings=HEADS)
    out = capsys.readouterr().out
    for text in (
            'in.pth: mae_mm', '32 wide, 2 deep, 8-px patches, 3 channels, 4x4 positions; decoder 16 wide, 1 deep',
            '50 tensors, 39,616 parameters', '1 tensors, 3 parameters: roi_head.bias (not converted)',
            'out (huggingface): 50 tensors, 39,616 parameters'):
        assert text in out
    convert(str(tmp_path / 'out'), None, None, inspect=True)
    assert 'out: huggingface' in capsys.readouterr().out
    for settings, match in ((dict(heads=2), '--set heads: must be one of'), (dict(num_heads='two'), 'num_heads=two, ')):
        with pytest.raises(ValueError, match=match):
            convert(str(path), None, None, inspect=True, settings=settings)
    with pytest.raises(ValueError, match='give OUT and --to'):
        convert(str(path), None, None)


@pytest.mark.integration
def test_command(make_mae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, path = str(ROOT / 'tools' / 'convert_checkpoint.py'), saved(make_mae().state_dict(), tmp_path / 'in.pth')
    args = [tool, str(path), str(tmp_path / 'vit.safetensors'), '--to', 'timm', '--set', 'grid=(4, 4)', 'num_heads=2']
    failed = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith('error: ') and 'Traceback' not in failed.stderr
    monkeypatch.setattr(sys, 'argv', [*args, '--encoder-only'])
    runpy.run_path(tool, run_name='__main__')
    assert read_checkpoint(tmp_path / 'vit.safetensors').format == 'timm'


def test_conversion_writes_over_nothing_unasked(make_mae: Callable, tmp_path: Path) -> None:
    path = saved(make_mae().state_dict(), tmp_path / 'in.pth')
    before = path.read_bytes()
    (tmp_path / 'link.pth').symlink_to(path)
    for out in ('in.pth', 'link.pth'):
        with pytest.raises(ValueError, match='OUT is the same file as IN'):
            convert(str(path), str(tmp_path / out), 'mae', encoder_only=True, overwrite=True)
    convert(str(path), str(tmp_path / 'out.pth'), 'mae')
    with pytest.raises(ValueError, match=r'out\.pth exists'):
        convert(str(path), str(tmp_path / 'out.pth'), 'mmpretrain')
    convert(str(path), str(tmp_path / 'out.pth'), 'mmpretrain', overwrite=True)
    assert read_checkpoint(tmp_path / 'out.pth').format == 'mmpretrain' and path.read_bytes() == before
