import pytest
import torch
from helpers.layer_decay import LR, WD, assert_same, optimizer_of, published, rates_of
from mmpretrain.registry import MODELS
from timm.layers import LayerNorm2d
from torch import nn

from mae_mm.engine.optim.layer_decay import LayerDecayOptimWrapperConstructor


def classifier(depth: int = 3, **backbone) -> nn.Module:
    return MODELS.build(dict(
        type='ImageClassifier',
        backbone=dict(
            type='mae_mm.ViT', arch=dict(embed_dim=32, depth=depth, num_heads=2), img_size=32, patch_size=8,
            **{'out_type': 'avg_featmap', **backbone}),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32)))


@pytest.mark.parametrize('rate', [0.5, 0.65, 1.0])
def test_mae(make_mae, rate):
    mae = make_mae(neck=dict(depth=3))
    actual = rates_of(mae, optimizer_of(mae, layer_decay_rate=rate))
    assert_same(actual, published(mae, 'backbone.', 2, rate))
    assert 'backbone.pos_embed' not in actual and 'neck.decoder_pos_embed' not in actual  # not trained
    assert actual['neck.decoder_blocks.0.attn.qkv.weight'] == (LR, WD)  # a decoder is not an encoder
    assert actual['neck.mask_token'] == (LR, 0)


@pytest.mark.parametrize('rate', [0.65, 0.75])
def test_classifier(rate):
    model = classifier()
    actual = rates_of(model, optimizer_of(model, layer_decay_rate=rate))
    assert_same(actual, published(model, 'backbone.', 3, rate))
    # The same in numbers that can be read: a ViT with 3 blocks.
    assert actual['head.fc.weight'] == (LR, WD) and actual['head.fc.bias'] == (LR, 0)
    assert actual['backbone.fc_norm.weight'] == (LR, 0)
    assert actual['backbone.blocks.2.mlp.fc1.weight'] == (pytest.approx(LR * rate), WD)
    assert actual['backbone.blocks.0.attn.qkv.weight'] == (pytest.approx(LR * rate**3), WD)
    assert actual['backbone.blocks.0.attn.qkv.bias'] == (pytest.approx(LR * rate**3), 0)
    assert actual['backbone.patch_embed.proj.weight'] == (pytest.approx(LR * rate**4), WD)
    assert actual['backbone.pos_embed'] == (pytest.approx(LR * rate**4), 0)
    assert actual['backbone.cls_token'] == (pytest.approx(LR * rate**4), 0)


def test_published_top_and_bottom_of_vit_b():
    """BEiT's log of a 12-block model with rate 0.65: 0.65 ** 13 at the embedding."""
    model = classifier(depth=12)
    actual = rates_of(model, optimizer_of(model, layer_decay_rate=0.65))
    assert actual['backbone.patch_embed.proj.bias'][0] == pytest.approx(LR * 0.0036972, rel=1e-4)
    assert actual['backbone.blocks.11.norm1.weight'][0] == pytest.approx(LR * 0.65)


def test_without_a_rate_nothing_but_weight_decay_differs():
    model = classifier()
    assert_same(rates_of(model, optimizer_of(model)), published(model, 'backbone.', 3, 1.0))


def test_encoder_may_be_anywhere(make_vit):
    vit = make_vit()
    assert_same(rates_of(vit, optimizer_of(vit, layer_decay_rate=0.5)), published(vit, '', 2, 0.5))
    host = nn.ModuleDict(dict(blocks=nn.Linear(3, 3), teacher=nn.ModuleDict(dict(backbone=vit)), head=nn.Linear(2, 2)))
    assert_same(
        rates_of(host, optimizer_of(host, layer_decay_rate=0.5)), published(host, 'teacher.backbone.', 2, 0.5))


def test_two_encoders_of_different_depth(make_vit):
    pair = nn.ModuleDict(dict(a=make_vit(), ab=make_vit(arch=dict(embed_dim=32, depth=4, num_heads=2))))
    actual = rates_of(pair, optimizer_of(pair, layer_decay_rate=0.5))
    for name, depth in (('a', 2), ('ab', 4)):
        expected = published(nn.ModuleDict({name: pair[name]}), f'{name}.', depth, 0.5)
        assert_same({key: value for key, value in actual.items() if key.startswith(f'{name}.')}, expected)


def test_only_what_is_tuned_is_in_a_group():
    model = classifier(tuned_blocks=1)
    actual = rates_of(model, optimizer_of(model, layer_decay_rate=0.75))
    assert_same(actual, published(model, 'backbone.', 3, 0.75))
    assert {name.rsplit('.', 1)[0] for name in actual if 'blocks' not in name} == {'head.fc', 'backbone.fc_norm'}
    assert {name.split('.')[2] for name in actual if 'blocks' in name} == {'2'}


def test_groups_are_merged(make_mae):
    # Embedding, 3 blocks and the rest, each with and without weight decay.
    assert len(optimizer_of(classifier(), layer_decay_rate=0.75).param_groups) == 2 * 5
    assert len(optimizer_of(make_mae(), layer_decay_rate=0.75).param_groups) == 2 * 4


def test_without_decay_two_groups_are_enough(make_mae):
    assert len(optimizer_of(make_mae()).param_groups) == 2


def test_relative_positions_are_not_decayed():
    class WithRelativePositions(nn.Module):

        def __init__(self) -> None:
            super().__init__()
            self.rel_pos_h = nn.Parameter(torch.zeros(5, 4))
            self.rel_pos_w = nn.Parameter(torch.zeros(5, 4))
            self.proj = nn.Linear(4, 4)

    model = WithRelativePositions()
    decays = {name: wd for name, (_, wd) in rates_of(model, optimizer_of(model)).items()}
    assert decays == {'rel_pos_h': 0, 'rel_pos_w': 0, 'proj.weight': WD, 'proj.bias': 0}


@pytest.mark.parametrize(('decayed', 'without'), [
    ('all_but_norms', {
        'backbone.cls_token', 'backbone.pos_embed', 'backbone.norm.weight', 'backbone.norm.bias', 'neck.0.weight',
        'neck.0.bias', 'neck.1.weight', 'neck.1.bias'}),
    ('all', set())])
def test_weight_decay_of_the_release_of_vitdet(make_vit, decayed, without):
    """Biases and relative positions decay; norms and position tables do not, or everything does (ViT-H)."""
    model = nn.ModuleDict(dict(
        backbone=make_vit(rel_pos=True, window_size=2, out_type='featmap'),
        neck=nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), LayerNorm2d(4))))
    without = without and without | {
        f'backbone.blocks.{i}.norm{j}.{kind}' for i in range(2) for j in (1, 2) for kind in ('weight', 'bias')}
    optimizer = optimizer_of(model, layer_decay_rate=0.7, decayed=decayed)
    rates = rates_of(model, optimizer)
    names = set(rates)
    assert {'backbone.blocks.0.attn.rel_pos_h', 'backbone.blocks.0.attn.qkv.bias', 'neck.2.weight'} <= names
    assert {name for name in names if rates[name][1] == 0} == without & names
    assert {decay for _, decay in rates.values()} <= {0, WD}
    default = rates_of(model, optimizer_of(model, layer_decay_rate=0.7))
    assert {name: lr for name, (lr, _) in rates.items()} == {name: lr for name, (lr, _) in default.items()}


def test_unknown_choice_of_decayed_parameters_is_refused():
    with pytest.raises(ValueError, match="decayed='biases' must be"):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=LR)), dict(decayed='biases'))


@pytest.mark.parametrize('rate', [0, -0.5, 1.5])
def test_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match=rf'layer_decay_rate={rate} is not in \(0, 1\]'):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=LR)), dict(layer_decay_rate=rate))


def test_unknown_key_is_refused():
    with pytest.raises(ValueError, match=r"paramwise_cfg has \['custom_keys', 'norm_decay_mult'\].*layer_decay_rate"):
        LayerDecayOptimWrapperConstructor(
            dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=WD)), dict(norm_decay_mult=0.0, custom_keys={}))
