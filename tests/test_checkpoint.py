"""Reading, recognising, writing, fitting. Other libraries judge the names in test_checkpoint_foreign.py."""

import os
import pickle
import runpy
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mae_mm.checkpoint import FORMATS, Checkpoint, allow_mmengine_objects, load_pretrained, read_checkpoint
from mae_mm.checkpoint import write_checkpoint as write
from mae_mm.checkpoint.convert import convert
from mae_mm.checkpoint.files import MMENGINE_OBJECTS
from mae_mm.checkpoint.formats import HUGGINGFACE_BLOCK, merge_qkv, split_qkv
from mae_mm.checkpoint.loading import adapt_patch_embed
from mae_mm.checkpoint.settings import settings_of_config_text
from mae_mm.registry import DATASETS, MODELS
from mae_mm.vit import ViT

HEADS = dict(num_heads=2, decoder_num_heads=2)
ROOT = Path(__file__).parent.parent


def canonical(module: nn.Module, **settings: object) -> Checkpoint:
    """The checkpoint of a ViT or MAE in memory."""
    tensors = {name.removeprefix('backbone.').removeprefix('neck.'): t for name, t in module.state_dict().items()}
    return Checkpoint(tensors, settings=settings)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Equal bit by bit."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name


# Formats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('part', ['full', 'encoder'])
@pytest.mark.parametrize('form', FORMATS)
def test_round_trip(make_mae: Callable, tmp_path: Path, form: str, part: str, dtype: torch.dtype) -> None:
    full = canonical(make_mae().to(dtype), **HEADS)
    checkpoint = full if part == 'full' else full.encoder_only()
    if (form, part) == ('timm', 'full'):
        with pytest.raises(ValueError, match='timm: the format has no place for mask_token.*encoder-only'):
            write(checkpoint, tmp_path / 'x', form)
        return
    write(checkpoint, tmp_path / 'x', form)
    there = read_checkpoint(tmp_path / 'x')
    assert there.format == form
    assert there.has_decoder == (part == 'full')
    assert not there.others
    write(there, tmp_path / 'back.pth', 'mae_mm')
    assert_same(checkpoint.tensors, read_checkpoint(tmp_path / 'back.pth').tensors)


@pytest.mark.parametrize('form', ['mae_mm', 'mae', 'timm', 'mmpretrain'])
def test_round_trip_of_a_fine_tuned_model(make_vit: Callable, tmp_path: Path, form: str) -> None:
    tensors = {**make_vit(out_type='avg_featmap').state_dict(), 'head.weight': torch.rand(3, 32), 'head.bias': torch.rand(3)}
    write(Checkpoint(tensors), tmp_path / 'x.safetensors', form)
    assert_same(tensors, read_checkpoint(tmp_path / 'x.safetensors').tensors)


def test_huggingface_has_no_place_for_fc_norm(make_vit: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no place for fc_norm.weight, fc_norm.bias; .*every format but huggingface'):
        write(canonical(make_vit(out_type='avg_featmap'), **HEADS), tmp_path / 'x', 'huggingface')


def test_huggingface_needs_heads_and_a_square(make_vit: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='how many attention heads share its width of 32.*--set num_heads=N'):
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
    lambda state: {**state, 'head.fc.weight': torch.rand(3, 32), 'head.fc.bias': torch.rand(3)},
    lambda state: {**state, 'roi_head.x.weight': torch.rand(3), 'neck.fpn_convs.0.conv.weight': torch.rand(3)},
])
def test_wrapped_encoders_are_found(make_vit: Callable, tmp_path: Path, wrap: Callable) -> None:
    vit, copy = make_vit(), make_vit()
    path = saved(wrap({f'backbone.{key}': value for key, value in vit.state_dict().items()}), tmp_path / 'vit.safetensors')
    load_pretrained(copy, path)
    assert_same(vit.state_dict(), copy.state_dict())


@pytest.mark.parametrize('keys, match', [
    (['student.vit.{}'], r"wrong prefix.*'student\.vit\.'.*prefix='student\.vit\.'"),
    (['a.{}', 'b.{}'], r"wrong prefix.*'a\.', 'b\.'"),
    (['{}', 'backbone.{}'], r"wrong prefix.*'', 'backbone\.'"),
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


def test_settings_of_a_config_are_read_and_not_run(tmp_path: Path) -> None:
    text = (
        "import os\nmodel = dict(backbone=dict(arch='large', img_size=(32, 64), type='mae_mm.ViT'),\n"
        "    neck={'type': 'mae_mm.MAEDecoder', 'num_heads': 4}, mask_ratio=0.6, type='mae_mm.MAE')\n"
        f"os.mkdir({str(tmp_path / 'run')!r})\n")
    assert settings_of_config_text(text) == dict(
        grid=(2, 4), num_heads=16, decoder_num_heads=4, mask_ratio=0.6, norm_pix_loss=True)
    assert not (tmp_path / 'run').exists()
    for other in ('', 'model = 1', "model = dict(backbone=dict(type='ResNet'))", 'model = f(x)', 'def', 'a, b = 1, 2'):
        assert settings_of_config_text(other) == {}


# Loading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('out_type, new, ignored', [
    ('raw', 0, 20), ('cls_token', 0, 20), ('featmap', 0, 22), ('avg_featmap', 2, 22)])
def test_report(make_mae: Callable, make_vit: Callable, out_type: str, new: int, ignored: int) -> None:
    checkpoint, vit = canonical(make_mae()), make_vit(out_type=out_type)
    fresh = {name: tensor.clone() for name, tensor in vit.state_dict().items() if name.startswith('fc_norm')}
    report = load_pretrained(vit, checkpoint)
    assert (len(report.new), len(report.ignored), len(report.resized)) == (new, ignored, 0)
    assert sum({**report.matched, **report.new}.values()) == sum(param.numel() for param in vit.parameters())
    assert sum(report.ignored.values()) == sum(
        tensor.numel() for name, tensor in checkpoint.tensors.items() if name not in report.matched)
    assert_same({name: vit.state_dict()[name] for name in report.matched}, {
        name: checkpoint.tensors[name] for name in report.matched})
    assert_same({name: vit.state_dict()[name] for name in report.new}, fresh)
    assert f'   matched{len(report.matched):>8}{sum(report.matched.values()):>13,}  cls_token, ' in str(report)


@pytest.mark.parametrize('img_size', [(64, 64), (16, 48), (24, 24)])
def test_position_tables_are_resampled_as_by_timm(make_mae: Callable, img_size: tuple[int, int]) -> None:
    small, large = make_mae(), make_mae(backbone=dict(img_size=img_size))
    with torch.no_grad():
        small.backbone.pos_embed.add_(torch.rand_like(small.backbone.pos_embed))
    report = load_pretrained(large, canonical(small))
    grid = [side // 8 for side in img_size]
    for name, part in (('pos_embed', 'backbone'), ('decoder_pos_embed', 'neck')):
        source, target = (getattr(getattr(model, part), name) for model in (small, large))
        torch.testing.assert_close(target, resample_abs_pos_embed(source, grid, [4, 4]), rtol=0, atol=0)
        assert torch.equal(target[:, 0], source[:, 0])
        assert f'{name} (4x4 -> {grid[0]}x{grid[1]})' in report.resized
    assert len(report.matched) == 48


def test_grids_of_equal_size_are_told_apart(make_vit: Callable, tmp_path: Path) -> None:
    wide, square, tall = (make_vit(img_size=size) for size in ((16, 64), (32, 32), (64, 16)))
    expected = resample_abs_pos_embed(wide.pos_embed.detach(), [8, 2], [2, 8])
    load_pretrained(tall, canonical(wide, grid=(2, 8)))
    assert torch.equal(tall.pos_embed, expected)
    load_pretrained(square, canonical(wide), grid_size=[2, 8])
    assert torch.equal(square.pos_embed, resample_abs_pos_embed(wide.pos_embed.detach(), [4, 4], [2, 8]))
    with pytest.raises(ValueError, match=r'16 positions may be 4x4 or the model.s 2x8; say which, e\.g\. grid_size=\(2, 8\)'):
        load_pretrained(wide, canonical(wide))
    with pytest.raises(ValueError, match=r'8 positions are no square .*grid_size=\(rows, columns\)'):
        load_pretrained(square, canonical(make_vit(img_size=(16, 32))))
    with pytest.raises(ValueError, match=r'grid_size=\(3, 3\) has not the 16 positions'):
        load_pretrained(square, canonical(square), grid_size=(3, 3))
    oblong = make_vit(img_size=(16, 32))
    assert not load_pretrained(make_vit(img_size=(16, 32)), canonical(oblong)).resized


@pytest.mark.parametrize('old, new', [(14, 16), (8, 16), (8, 12)])
def test_enlarged_patches_keep_their_embedding(old: int, new: int) -> None:
    weight, patch = torch.randn(5, 3, old, old), torch.randn(1, 3, old, old)
    larger = F.interpolate(patch, size=(new, new), mode='bicubic', antialias=True)
    resized = adapt_patch_embed(weight, 3, new)
    torch.testing.assert_close(F.conv2d(larger, resized), F.conv2d(patch, weight), rtol=0, atol=1e-3)


@pytest.mark.parametrize('chans', [1, 2, 4, 5, 13])
def test_channels_are_adapted_as_by_timm(chans: int) -> None:
    weight = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(adapt_patch_embed(weight, chans, 8), adapt_input_conv(chans, weight))
    assert adapt_patch_embed(weight, 3, 8) is weight


def test_channels_by_hand() -> None:
    weight = torch.tensor([1., 2., 6.]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert adapt_patch_embed(weight, 1, 4)[0, :, 0, 0].tolist() == [9]
    assert adapt_patch_embed(weight, 4, 4)[0, :, 0, 0].tolist() == [0.75, 1.5, 4.5, 0.75]
    assert adapt_patch_embed(weight[:, :2], 4, 4)[0, :, 0, 0].tolist() == [0.5, 1, 0.5, 1]
    assert adapt_patch_embed(weight.half(), 1, 4).dtype == torch.float16


def test_gray_images_have_the_features_of_gray_rgb_images(make_vit: Callable, imgs: Tensor) -> None:
    rgb, gray = make_vit().eval(), make_vit(in_chans=1).eval()
    report = load_pretrained(gray, canonical(rgb))
    assert list(report.resized) == ['patch_embed.proj.weight (3 -> 1 channels, 8 -> 8 px)']
    torch.testing.assert_close(gray(imgs[:, :1])[0], rgb(imgs[:, :1].expand(-1, 3, -1, -1))[0], rtol=0, atol=1e-5)


def test_other_patch_size(make_vit: Callable) -> None:
    vit = make_vit(patch_size=16, img_size=64)
    report = load_pretrained(vit, canonical(make_vit()))
    assert list(report.resized) == ['patch_embed.proj.weight (3 -> 3 channels, 8 -> 16 px)']  # still 4x4 positions


def drop(checkpoint: Checkpoint, *names: str) -> Checkpoint:
    for name in names:
        del checkpoint.tensors[name]
    return checkpoint


@pytest.mark.parametrize('model, file, match', [
    (dict(arch=dict(embed_dim=48, depth=2, num_heads=2)), dict(),
     r'(?s)30 of another shape \(file -> model\): cls_token \(1, 1, 32\) -> \(1, 1, 48\), .*another architecture: '
     r"the file is 32 wide, 2 deep, 2 heads, the model 48 wide, 2 deep, 2 heads; set the backbone's arch"),
    (dict(arch=dict(embed_dim=32, depth=3, num_heads=2)), dict(),
     r'(?s)12 missing in the file: blocks\.2\.norm1\.weight, .*, ….*another architecture'),
    (dict(), dict(arch=dict(embed_dim=32, depth=3, num_heads=2)),
     r'(?s)12 without a place in the model: blocks\.2\.norm1\.weight.*another architecture'),
    (dict(), dict(out_type='avg_featmap'),
     r'(?s)2 missing in the file: norm\.weight, norm\.bias\n.*a fine-tuned file: with mean pooling, fc_norm took'),
    (dict(out_type='cls_token'), dict(out_type='featmap'), r'(?s)2 missing.*without final norm, as detectors'),
    (dict(), dict(arch=dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2)), 'a ViT with other parts than these'),
])
def test_misfits(make_vit: Callable, model: dict, file: dict, match: str) -> None:
    vit = make_vit(**model)
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_pretrained(vit, canonical(make_vit(**file)))
    assert_same(before, dict(vit.state_dict()))


def test_misfits_that_shapes_do_not_show(make_vit: Callable) -> None:
    with pytest.raises(ValueError, match='the file is 32 wide, 2 deep, 4 heads, the model 32 wide, 2 deep, 2 heads'):
        load_pretrained(make_vit(), canonical(make_vit(), num_heads=4))
    with pytest.raises(ValueError, match=r'(?s)1 missing in the file: pos_embed\n.*a partial file'):
        load_pretrained(make_vit(), drop(canonical(make_vit()), 'pos_embed'))
    gated = canonical(make_vit())
    gated.tensors['blocks.1.ls1.gamma'] = torch.ones(32)
    with pytest.raises(ValueError, match=r'(?s)1 without a place in the model: blocks\.1\.ls1\.gamma'):
        load_pretrained(make_vit(), gated)


@pytest.mark.parametrize('neck, file, match', [
    (dict(), 'encoder', 'an encoder-only file where a decoder is needed; give the file that pre-training wrote'),
    (dict(depth=2), 'full', '(?s)12 missing in the file: decoder_blocks.1.*another decoder.*decoder 16 wide, 1 deep'),
    (dict(embed_dim=32), 'full', 'another decoder'),
])
def test_decoders_that_do_not_fit(make_mae: Callable, neck: dict, file: str, match: str) -> None:
    checkpoint = canonical(make_mae())
    with pytest.raises(ValueError, match=match):
        load_pretrained(make_mae(neck=neck), checkpoint if file == 'full' else checkpoint.encoder_only())


def test_a_decoder_cannot_be_resized_to_other_patches(make_mae: Callable) -> None:
    with pytest.raises(ValueError, match=r'(?s)decoder_pred\.weight \(192, 16\) -> \(768, 16\).*another decoder'):
        load_pretrained(make_mae(backbone=dict(patch_size=16, img_size=64)), canonical(make_mae()))


def test_one_vit_is_needed(make_vit: Callable) -> None:
    with pytest.raises(ValueError, match=r'Sequential has 2 mae_mm\.ViT, not one'):
        load_pretrained(nn.Sequential(make_vit(), make_vit()), canonical(make_vit()))


# In models of the hosts ----------------------------------------------------------------------------------------------


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What is logged during a test."""
    from mmengine.logging import MMLogger

    class Record(list):
        level = 0

        def handle(self, record: object) -> None:
            self.append(record.getMessage())

    logger, record = MMLogger.get_current_instance(), Record()
    logger.handlers, handlers = [record], logger.handlers
    yield record
    logger.handlers = handlers


def test_init_cfg_of_a_whole_autoencoder(make_mae: Callable, tmp_path: Path, messages: list[str]) -> None:
    source = make_mae()
    path = saved(dict(state_dict=source.state_dict()), tmp_path / 'mae.pth')
    model = MODELS.build(dict(
        type='mae_mm.MAE', neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
        backbone=dict(
            type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8),
        init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(path))))
    model.init_weights()
    assert_same(dict(source.state_dict()), dict(model.state_dict()))
    assert sum('weights loaded from' in message for message in messages) == 1
    assert any('mae_mm.Pretrained: loaded from' in message for message in messages)


@pytest.mark.integration
@torch.no_grad()
def test_one_file_in_every_host(make_mae: Callable, imgs: Tensor, tmp_path: Path) -> None:
    from mmdet.registry import MODELS as MMDET
    from mmpretrain.registry import MODELS as MMPRETRAIN
    from mmseg.registry import MODELS as MMSEG

    source = make_mae().eval()
    path = saved(dict(state_dict=source.state_dict()), tmp_path / 'mae.pth')
    backbone = dict(
        type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8,
        init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(path)))
    maps = dict(backbone, out_type='featmap')
    models = [
        MMPRETRAIN.build(dict(
            type='ImageClassifier', backbone=backbone, head=dict(type='LinearClsHead', num_classes=3, in_channels=32))),
        MMDET.build(dict(type='mmdet.RetinaNet', backbone=maps, neck=None, bbox_head=dict(
            type='mmdet.RetinaHead', num_classes=3, in_channels=32, feat_channels=8, stacked_convs=1,
            anchor_generator=dict(type='mmdet.AnchorGenerator', scales=[4], ratios=[1.0], strides=[8])))),
        MMSEG.build(dict(type='mmseg.EncoderDecoder', backbone=maps, decode_head=dict(
            type='mmseg.FCNHead', in_channels=32, in_index=0, channels=8, num_classes=3, norm_cfg=dict(type='BN')))),
    ]
    for model in models:
        model.init_weights()
        model.eval()
    tokens = source.backbone(imgs)[0]
    classifier, *dense = (model.backbone(imgs)[0] for model in models)
    torch.testing.assert_close(classifier, tokens, rtol=0, atol=1e-5)
    for features in dense:  # without final norm
        normed = source.backbone.norm(features.flatten(2).transpose(1, 2))
        torch.testing.assert_close(normed, tokens[:, 1:], rtol=0, atol=1e-5)
    for i, model in enumerate(models):  # and what the hosts save is read again
        vit = ViT(**{k: v for k, v in maps.items() if k not in ('type', 'init_cfg')}).eval()
        report = load_pretrained(vit, saved(dict(state_dict=model.state_dict()), tmp_path / f'{i}.pth'))
        assert torch.equal(vit(imgs)[0], models[1].backbone(imgs)[0])
        assert not report.new


# Safety --------------------------------------------------------------------------------------------------------------


class Call:
    """Unpickles as a call."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize('call, name', [
    (Call(os.system, 'touch {}'), 'posix.system'),
    (Call(eval, "open('{}', 'w')"), 'eval'),
    (Call(exec, "open('{}', 'w')"), 'exec'),
    (Call(partial(open, mode='w'), '{}'), 'functools.partial'),
    (Call(getattr, HistoryBuffer, '__init__'), r'builtins.getattr\(HistoryBuffer,__init__\)'),
    (Call(getattr, OrderedDict, 'update'), r'builtins.getattr\(OrderedDict,update\)'),
    (Call(pickle.loads, b'N.'), '_pickle.loads'),
])
@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_but_data_is_unpickled(make_vit: Callable, tmp_path: Path, call: Call, name: str, legacy: bool) -> None:
    victim = tmp_path / 'victim'
    function, args = call.call
    call = Call(function, *(arg.format(victim) if isinstance(arg, str) else arg for arg in args))
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=make_vit().state_dict(), meta=call), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=f'evil.pth was not loaded: it holds {name}, which is neither a tensor nor'):
        read_checkpoint(path)
    assert not victim.exists()


def test_the_malicious_file_would_work(tmp_path: Path) -> None:
    torch.save(Call(os.system, f'touch {tmp_path / "victim"}'), tmp_path / 'evil.pth')
    torch.load(tmp_path / 'evil.pth', weights_only=False)
    assert (tmp_path / 'victim').exists()


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: data[:-100], lambda data: data[:9], lambda data: b'',
    lambda data: b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n', lambda data: b'<!DOCTYPE html>',
    lambda data: data[:8] + b'{' * 50, lambda data: b'\x80\x02' + bytes(range(256)),
])
@pytest.mark.parametrize('kind', ['torch', 'safetensors'])
def test_damaged_files(make_vit: Callable, tmp_path: Path, damage: Callable, kind: str) -> None:
    path, save = tmp_path / 'file.pth', torch.save if kind == 'torch' else save_file
    save(dict(make_vit().state_dict()), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f'file.pth is no checkpoint, or truncated.* {path.stat().st_size:,} bytes'):
        read_checkpoint(path)


def test_other_things_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at /.*nowhere\.pth'):
        read_checkpoint(tmp_path / 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match=r'is a folder without model\*\.safetensors'):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match='holds a list, not a dict of tensors'):
        read_checkpoint(saved([torch.zeros(1)], tmp_path / 'list.pth'))
    with pytest.raises(ValueError, match=r"format 'keras' is none of mae_mm, mae, timm"):
        write(Checkpoint({}), tmp_path / 'x', 'keras')


def test_a_command_line_beside_the_weights_is_read(make_vit: Callable, tmp_path: Path) -> None:
    import argparse

    state = dict(make_vit().state_dict())
    path = saved(dict(model=state, args=argparse.Namespace(lr=1.0, output_dir='x'), epoch=3), tmp_path / 'release.pth')
    assert_same(read_checkpoint(path).tensors, state)


@pytest.fixture
def no_safe_globals() -> Iterator[None]:
    """Process-wide list of trusted objects: empty before and after."""
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()


def mmengine_file(path: Path) -> Path:
    """A file with every kind of object that mmengine's Runner stores."""
    buffers = {'loss': HistoryBuffer([0.5, 0.25], [1, 1])}
    numbers = [np.float32(1), np.float64(1), np.int64(1), np.ones(2)]
    return saved(dict(message_hub=dict(log_scalars=buffers, runtime_info=numbers)), path)


@pytest.mark.parametrize('obj', [obj for obj in MMENGINE_OBJECTS if '.core.' not in str(obj)], ids=str)
def test_every_allowed_object_is_needed(tmp_path: Path, no_safe_globals: None, obj: object) -> None:
    path = mmengine_file(tmp_path / 'x.pth')
    torch.serialization.add_safe_globals([other for other in MMENGINE_OBJECTS if other is not obj])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    torch.serialization.add_safe_globals([obj])
    torch.load(path, weights_only=True)


def test_reading_leaves_the_process_wide_list_alone(make_vit: Callable, tmp_path: Path, no_safe_globals: None) -> None:
    path = saved(make_vit().state_dict(), tmp_path / 'x.pth')
    read_checkpoint(path)
    assert not torch.serialization.get_safe_globals()
    allow_mmengine_objects()
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == set(MMENGINE_OBJECTS)


@DATASETS.register_module()
class Images(torch.utils.data.Dataset):
    """Four images of noise."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, idx: int) -> dict:
        return dict(inputs=torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(idx)))


def test_what_the_runner_writes(tmp_path: Path, no_safe_globals: None) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner

    def runner(epochs: int, **options: object) -> Runner:
        return Runner.from_cfg(Config(dict(
            model=dict(
                type='mae_mm.MAE', neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
                backbone=dict(
                    type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8)),
            train_dataloader=dict(
                dataset=dict(type='mae_mm.Images'), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs), work_dir=str(tmp_path), log_level='ERROR',
            default_scope='mmpretrain', experiment_name=f'run{epochs}',
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)), **options)))

    first = runner(1)
    first.train()
    path = tmp_path / 'epoch_1.pth'
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings == dict(grid=(4, 4), mask_ratio=0.75, norm_pix_loss=True, **HEADS)
    model = MODELS.build(first.cfg.model)
    load_pretrained(model, path)
    assert_same(dict(first.model.state_dict()), dict(model.state_dict()))
    write(checkpoint, tmp_path / 'vit_mae', 'huggingface')  # heads are known

    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        runner(2, resume=True, load_from=str(path)).train()
    allow_mmengine_objects()
    second = runner(2, resume=True, load_from=str(path))
    second.train()
    assert (second.epoch, second.iter) == (2, 4)


# Files from elsewhere, and the command -------------------------------------------------------------------------------


def test_shards_are_joined(make_vit: Callable, tmp_path: Path) -> None:
    state = dict(make_vit().state_dict())
    names = list(state)
    for i, part in enumerate((names[:9], names[9:])):
        save_file({name: state[name] for name in part}, tmp_path / f'model-0000{i + 1}-of-00002.safetensors')
    assert_same(read_checkpoint(tmp_path).tensors, state)


def test_urls(make_vit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    (tmp_path / 'www').mkdir()
    state = dict(make_vit().state_dict())
    save_file(state, tmp_path / 'www' / 'model.safetensors')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'www'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/model.safetensors'
        assert_same(read_checkpoint(url).tensors, state)
        server.shutdown()
    assert_same(read_checkpoint(url).tensors, state)  # from the cache


def test_convert_says_what_it_does(make_mae: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = {**make_mae().state_dict(), 'roi_head.bias': torch.zeros(3)}
    path = saved(dict(state_dict=state), tmp_path / 'in.pth')
    convert(str(path), str(tmp_path / 'out'), 'huggingface', settings=['num_heads=2', 'decoder_num_heads=2'])
    out = capsys.readouterr().out
    for text in (
            'in.pth: mae_mm', '32 wide, 2 deep, 8-px patches, 3 channels, 4x4 positions; decoder 16 wide, 1 deep',
            'yes', '50 tensors, 39,616 parameters', '1 tensors, 3 parameters: roi_head.bias (not converted)',
            'out (huggingface): 50 tensors, 39,616 parameters'):
        assert text in out
    convert(str(tmp_path / 'out'), None, None, inspect=True)
    assert 'out: huggingface' in capsys.readouterr().out
    for settings, match in ((['heads=2'], "'heads' is none of"), (['num_heads=two'], "'two' is no number")):
        with pytest.raises(ValueError, match=match):
            convert(str(path), None, None, inspect=True, settings=settings)
    with pytest.raises(ValueError, match='say where to write'):
        convert(str(path), None, None)


@pytest.mark.integration
def test_command(make_mae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, path = str(ROOT / 'tools' / 'convert_checkpoint.py'), saved(make_mae().state_dict(), tmp_path / 'in.pth')
    args = [tool, str(path), str(tmp_path / 'vit.safetensors'), '--to', 'timm']
    failed = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith('error: ') and 'Traceback' not in failed.stderr
    monkeypatch.setattr(sys, 'argv', [*args, '--encoder-only'])
    runpy.run_path(tool, run_name='__main__')
    assert read_checkpoint(tmp_path / 'vit.safetensors').format == 'timm'
