"""Checkpoint into model: what matches, what is resized, what is refused, in every host."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoints import assert_same, canonical, saved
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mae_mm.checkpoint import Checkpoint, load_pretrained, read_checkpoint, write_checkpoint
from mae_mm.checkpoint import loading as module
from mae_mm.checkpoint.formats import DECODER
from mae_mm.checkpoint.loading import adapt_patch_embed, resize_rel_pos
from mae_mm.models.vit import ViT
from mae_mm.registry import MODELS


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
    with pytest.raises(ValueError, match=r'rows and columns of its 16 positions are not known; .*grid_size=.*\(2, 8\)'):
        load_pretrained(wide, canonical(wide))
    with pytest.raises(ValueError, match=r'8 positions are not known; set grid_size=\(rows, columns\)'):
        load_pretrained(square, canonical(make_vit(img_size=(16, 32))))
    with pytest.raises(ValueError, match=r'16 positions are not \(3, 3\); set grid_size'):
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


def test_channels_by_name() -> None:
    """Red, green and blue of the file go to their bands, the others get the mean, all times 3 / 6."""
    weight, names = torch.tensor([1., 2., 6.]).view(1, 3, 1, 1).expand(1, 3, 4, 4), ('red', 'green', 'blue')
    bands = ('coast', 'blue', 'green', 'red', 'nir', 'swir')
    assert adapt_patch_embed(weight, 6, 4, names, bands)[0, :, 0, 0].tolist() == [1.5, 3, 1, 0.5, 1.5, 1.5]
    assert adapt_patch_embed(weight, 3, 4, names, ('blue', 'green', 'red'))[0, :, 0, 0].tolist() == [6, 2, 1]
    assert adapt_patch_embed(weight, 1, 4, names, ('green', ))[0, :, 0, 0].tolist() == [6]
    assert adapt_patch_embed(weight, 4, 4, names, 'abcd')[0, :, 0, 0].tolist() == [0.75, 1.5, 4.5, 0.75]


@pytest.mark.parametrize('settings, bands, order', [
    ({}, ['blue', 'green', 'red', 'nir'], [2, 1, 0, None]),  # three channels are red, green, blue
    ({}, ['blue', 'green', 'red'], [2, 1, 0]),
    (dict(bands=['nir', 'red', 'green']), ['red', 'nir', 'blue'], [1, 0, None]),
    (dict(reading=dict(bands=[8, 4, 3])), ['blue', 'green', 'red'], [0, 1, 2]),  # three channels, but not of a photo
    (dict(bands=['nir', 'red', 'green']), 3, [0, 1, 2]),
    ({}, ['red', 'green', 'blue'], [0, 1, 2])])
def test_weights_go_to_the_bands_of_their_names(
    make_vit: Callable, settings: dict, bands: int | list[str], order: list[int | None],
) -> None:
    file, vit = make_vit(), make_vit(in_chans=bands)
    report = load_pretrained(vit, canonical(file, **settings))
    old, new = file.patch_embed.proj.weight, vit.patch_embed.proj.weight
    for i, source in enumerate(order):
        expected = old.mean(1) if source is None else old[:, source]
        torch.testing.assert_close(new[:, i], expected * (3 / len(order)))
    change, = report.resized or ['']
    assert ('by name' in change) == (order != [0, 1, 2])
    if len(order) == 4:
        assert change == 'patch_embed.proj.weight (3 -> 4 channels (blue, green, red by name), 8 -> 8 px)'
        gray = torch.rand(2, 1, 32, 32)
        torch.testing.assert_close(
            vit.eval()(gray.expand(-1, 4, -1, -1))[0], file.eval()(gray.expand(-1, 3, -1, -1))[0], rtol=0, atol=1e-4)


def test_gray_images_have_the_features_of_gray_rgb_images(make_vit: Callable, imgs: Tensor) -> None:
    rgb, gray = make_vit().eval(), make_vit(in_chans=1).eval()
    report = load_pretrained(gray, canonical(rgb))
    assert list(report.resized) == ['patch_embed.proj.weight (3 -> 1 channels, 8 -> 8 px)']
    torch.testing.assert_close(gray(imgs[:, :1])[0], rgb(imgs[:, :1].expand(-1, 3, -1, -1))[0], rtol=0, atol=1e-5)


def test_other_patch_size(make_vit: Callable) -> None:
    vit = make_vit(patch_size=16, img_size=64)
    report = load_pretrained(vit, canonical(make_vit()))
    assert list(report.resized) == ['patch_embed.proj.weight (3 -> 3 channels, 8 -> 16 px)']  # still 4x4 positions


@pytest.mark.parametrize('options', [dict(window_size=2), dict(window_size=0)])
def test_relative_positions(make_vit: Callable, options: dict) -> None:
    plain, small, large = (
        make_vit(out_type='featmap', img_size=size, rel_pos=rel_pos, **options)
        for size, rel_pos in ((32, False), (32, True), (64, True)))
    assert all('.rel_pos' in name for name in load_pretrained(small, canonical(plain)).new)
    report = load_pretrained(large, canonical(small))
    assert all('.rel_pos' in name or name.startswith('pos_embed') for name in report.resized)
    kind = 'rel_pos_h' if options['window_size'] else 'rel_pos_bias'
    table = small.state_dict()[f'blocks.1.attn.{kind}']
    assert torch.equal(large.state_dict()[f'blocks.1.attn.{kind}'], resize_rel_pos(table, (15, 15, 15)))
    with pytest.raises(ValueError, match=r'(?s)without a place in the model: blocks.*other rel_pos'):
        load_pretrained(plain, canonical(small))


def test_relative_positions_by_hand() -> None:
    axis = torch.tensor([[0.], [1.], [2.]])
    assert resize_rel_pos(axis, (5, 1)).flatten().tolist() == pytest.approx([0, 0.4, 1, 1.6, 2])
    both = torch.arange(3.).expand(2, 3, 3)
    assert resize_rel_pos(both, (2, 5, 3)).shape == (2, 5, 3)
    assert torch.allclose(resize_rel_pos(both, (2, 5, 3)), torch.arange(3.))


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
     r'(?s)2 missing in the file: norm\.weight, norm\.bias\n.*a fine-tuned file: '),
    (dict(out_type='cls_token'), dict(out_type='featmap'), '(?s)2 missing.*a fine-tuned file: .*detectors'),
    (dict(), dict(arch=dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2)), 'a model with other parts'),
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
    with pytest.raises(ValueError, match=r'(?s)1 missing in the file: pos_embed\n.*an incomplete file'):
        load_pretrained(make_vit(), drop(canonical(make_vit()), 'pos_embed'))
    gated = canonical(make_vit())
    gated.tensors['blocks.1.ls1.gamma'] = torch.ones(32)
    with pytest.raises(ValueError, match=r'(?s)1 without a place in the model: blocks\.1\.ls1\.gamma'):
        load_pretrained(make_vit(), gated)


@pytest.mark.parametrize('neck, file, match', [
    (dict(), 'encoder', 'an encoder-only file where a decoder is needed; give the file that pre-training wrote'),
    (dict(depth=2), 'full', '(?s)12 missing in the file: decoder_blocks.1.*another decoder'),
    (dict(embed_dim=32), 'full', 'another decoder'),
])
def test_decoders_that_do_not_fit(make_mae: Callable, neck: dict, file: str, match: str) -> None:
    checkpoint = canonical(make_mae())
    with pytest.raises(ValueError, match=match):
        load_pretrained(make_mae(neck=neck), checkpoint if file == 'full' else checkpoint.encoder_only())


def test_a_decoder_cannot_be_resized_to_other_patches(make_mae: Callable) -> None:
    with pytest.raises(ValueError, match=r'(?s)decoder_pred\.weight \(192, 16\) -> \(768, 16\).*another decoder'):
        load_pretrained(make_mae(backbone=dict(patch_size=16, img_size=64)), canonical(make_mae()))


@pytest.mark.parametrize('file, backbone, new, said', [
    ('encoder', dict(), DECODER, 'THE DECODER IS NEW, 20 tensors with random weights'),
    ('full', dict(patch_size=16, img_size=64), ['decoder_pred'], 'THE LAST LAYER OF THE DECODER IS NEW, 2 tensors'),
    ('full', dict(in_chans=1), ['decoder_pred'], 'THE LAST LAYER OF THE DECODER IS NEW, 2 tensors'),
    ('full', dict(), [], None),
])
def test_pretraining_continues_with_a_new_decoder(
    make_mae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, backbone: dict, new: list[str],
    said: str | None,
) -> None:
    log = []
    monkeypatch.setattr(module, 'print_log', lambda text, *args, **options: log.append(text))
    checkpoint, model = canonical(make_mae()), make_mae(backbone=backbone)
    write_checkpoint(checkpoint if file == 'full' else checkpoint.encoder_only(), tmp_path / 'x.pth', 'mae_mm')
    module.Pretrained(str(tmp_path / 'x.pth'))(model)
    kept = {name: value for name, value in model.neck.state_dict().items() if name.split('.')[0] not in new}
    assert_same(kept, {name: checkpoint.tensors[name] for name in kept})
    assert_same(model.backbone.blocks.state_dict(), {
        name.removeprefix('blocks.'): value for name, value in checkpoint.tensors.items() if name[:7] == 'blocks.'})
    assert said in log[-1] if said else not log
    assert model.neck.decoder_pred.weight.std() > 0.01  # initialised
    with pytest.raises(ValueError, match='another decoder') if file == 'full' and new else nullcontext():
        load_pretrained(make_mae(backbone=backbone), checkpoint)


def test_one_vit_is_needed(make_vit: Callable) -> None:
    with pytest.raises(ValueError, match=r'Sequential has 2 mae_mm\.ViT, not one'):
        load_pretrained(nn.Sequential(make_vit(), make_vit()), canonical(make_vit()))


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What is logged during a test."""
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
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    source = make_mae().eval()
    path = saved(dict(state_dict=source.state_dict()), tmp_path / 'mae.pth')
    backbone = dict(
        type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8,
        init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(path)))
    maps = dict(backbone, out_type='featmap')
    configs = dict(
        mmpretrain=dict(
            type='ImageClassifier', backbone=backbone, head=dict(type='LinearClsHead', num_classes=3, in_channels=32)),
        mmdet=dict(type='RetinaNet', backbone=maps, neck=None, bbox_head=dict(
            type='RetinaHead', num_classes=3, in_channels=32, feat_channels=8, stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[8]))),
        mmseg=dict(type='EncoderDecoder', backbone=maps, decode_head=dict(
            type='FCNHead', in_channels=32, in_index=0, channels=8, num_classes=3, norm_cfg=dict(type='BN'))))
    models = []
    for host, config in configs.items():
        with DefaultScope.overwrite_default_scope(host):
            models.append(import_module(f'{host}.registry').MODELS.build(config))
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
        assert any('head.' in name for name in report.ignored)


def test_cross_decoder_goes_there_and_back(make_mae: Callable, tmp_path: Path) -> None:
    """It has a norm that no other decoder has."""
    cross = dict(type='mae_mm.CrossDecoder', predict_ratio=1 / 3)
    model, other = make_mae(neck=cross), make_mae(neck=cross)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'cross.pth')
    load_pretrained(other, tmp_path / 'cross.pth')
    assert_same(other.state_dict(), model.state_dict())
    write_checkpoint(read_checkpoint(tmp_path / 'cross.pth'), tmp_path / 'again.pth', 'mae_mm')
    assert_same(torch.load(tmp_path / 'again.pth')['state_dict'], model.state_dict())
