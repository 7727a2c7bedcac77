import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae_mm.models.archs import ARCHS
from mae_mm.models.attention import Block
from mae_mm.models.positions import fixed_table, sincos_table
from mae_mm.models.vit import ViT

TINY = dict(embed_dim=32, depth=2, num_heads=2)
OUT_TYPES = ('raw', 'cls_token', 'avg_featmap', 'featmap')


# --- the same network as timm's


@pytest.mark.parametrize('out_type, pool', [('cls_token', 'token'), ('avg_featmap', 'avg'), ('raw', '')])
@pytest.mark.parametrize('img_size, in_chans', [((32, 32), 3), ((16, 48), 5)])
def test_equals_timm(make_vit, out_type, pool, img_size, in_chans):
    ours = make_vit(out_type=out_type, img_size=img_size, in_chans=in_chans)
    ours.pos_embed.data.add_(0.1 * torch.randn_like(ours.pos_embed))  # the class token has a position, too
    theirs = VisionTransformer(
        img_size=img_size, patch_size=8, in_chans=in_chans, num_classes=0, global_pool=pool, embed_dim=32, depth=2,
        num_heads=2)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    imgs = torch.randn(2, in_chans, *img_size)
    actual, expected = ours(imgs)[0], theirs(imgs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)

    weights = torch.randn_like(expected)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: param.grad for name, param in theirs.named_parameters()}
    for name, param in ours.named_parameters():
        assert (param.grad - gradients[name]).abs().max() <= 1e-5 * gradients[name].abs().max(), name


@pytest.mark.parametrize('arch, embed_dim, depth, num_heads, millions', [
    ('tiny', 192, 12, 3, 5.5), ('small', 384, 12, 6, 21.7), ('base', 768, 12, 12, 85.8), ('large', 1024, 24, 16, 303.3),
    ('huge', 1280, 32, 16, 630.8)])
def test_published_sizes(arch, embed_dim, depth, num_heads, millions):
    """Width, depth, heads and parameters (without a classifier; H with patches of 14) of ViT and DeiT."""
    assert ARCHS[arch] == dict(embed_dim=embed_dim, depth=depth, num_heads=num_heads)
    with torch.device('meta'):
        block = Block(embed_dim, num_heads)
    per_block = sum(param.numel() for param in block.parameters())
    p = 14 if arch == 'huge' else 16
    outside = embed_dim * (1 + 1 + (224 // p)**2 + 3 * p * p + 1 + 2)
    assert (depth * per_block + outside) / 1e6 == pytest.approx(millions, abs=0.05)


def test_named_architecture_is_built(make_vit):
    vit = make_vit(arch='tiny')
    assert len(vit.blocks) == vit.depth == 12 and vit.embed_dim == 192 and vit.blocks[0].attn.num_heads == 3
    assert vit.blocks[0].mlp.fc1.out_features == 768
    assert make_vit(arch=dict(TINY, mlp_ratio=2)).blocks[0].mlp.fc1.out_features == 64


# --- outputs


def test_meaning_of_the_out_types(make_vit, imgs):
    raw, pooled = make_vit(out_type='raw'), make_vit(out_type='avg_featmap')
    weights = raw.state_dict()
    tokens, = raw(imgs)
    assert tokens.shape == (2, 17, 32)

    cls_token = make_vit(out_type='cls_token')
    cls_token.load_state_dict(weights)
    assert torch.equal(cls_token(imgs)[0], tokens[:, 0])

    weights['fc_norm.weight'], weights['fc_norm.bias'] = weights.pop('norm.weight'), weights.pop('norm.bias')
    pooled.load_state_dict(weights)
    features, = make_vit_like(pooled, 'featmap', out_indices=(1, ))(imgs)
    assert features.shape == (2, 32, 4, 4)
    mean = features.mean((2, 3))
    torch.testing.assert_close(pooled(imgs)[0], pooled.fc_norm(mean))
    # 'featmap' is without norm, 'raw' with it; the last block's tokens are the same.
    normed = nn.functional.layer_norm(
        features.flatten(2).transpose(1, 2), (32, ), raw.norm.weight, raw.norm.bias, eps=1e-6)
    torch.testing.assert_close(normed, tokens[:, 1:])


def make_vit_like(vit: ViT, out_type: str, **options) -> ViT:
    other = ViT(TINY, 32, 8, out_type=out_type, **options)
    missing, unexpected = other.load_state_dict(vit.state_dict(), strict=False)
    assert not missing and all('norm' in name for name in unexpected)
    return other


def test_feature_map_keeps_rows_and_columns(make_vit):
    """Without attention and MLP a token is its patch alone: the map lies as the image does."""
    arch = dict(embed_dim=4, depth=1, num_heads=1)
    vit = make_vit(out_type='featmap', arch=arch, patch_size=2, img_size=(4, 6), in_chans=1)
    with torch.no_grad():
        for param in vit.parameters():
            param.zero_()
        vit.patch_embed.proj.weight.fill_(0.25)
    imgs = torch.arange(24.0).view(1, 1, 4, 6)
    out, = vit(imgs)
    assert torch.equal(out[0, 0], nn.functional.avg_pool2d(imgs, 2)[0, 0])
    assert out.shape == (1, 4, 2, 3)


@pytest.mark.parametrize('indices, blocks', [
    ((-1, ), [3]), ((0, ), [0]), ((1, 3), [1, 3]), ((3, 1), [1, 3]), ((-1, -4, 2), [0, 2, 3]), ([0, 1, 2], [0, 1, 2])])
def test_out_indices_in_order_of_the_blocks(make_vit, imgs, indices, blocks):
    vit = make_vit(out_type='featmap', arch=dict(TINY, depth=4), out_indices=indices)
    after = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, args, out: after.append(out))
    maps = vit(imgs)
    assert isinstance(maps, tuple) and len(maps) == len(blocks)
    for feature, i in zip(maps, blocks, strict=True):
        assert torch.equal(feature.flatten(2).transpose(1, 2), after[i][:, 1:])


@pytest.mark.parametrize('size', [(32, 32), (16, 64), (64, 16), (40, 24), (8, 8)])
@pytest.mark.parametrize('out_type', OUT_TYPES)
def test_any_size_that_patches_fill(make_vit, size, out_type):
    out, = make_vit(out_type=out_type)(torch.randn(2, 3, *size))
    rows, cols = size[0] // 8, size[1] // 8
    shapes = dict(
        raw=(2, 1 + rows * cols, 32), cls_token=(2, 32), avg_featmap=(2, 32), featmap=(2, 32, rows, cols))
    assert out.shape == shapes[out_type]


@pytest.mark.parametrize('in_chans', [1, 3, 5])
def test_any_number_of_channels(make_vit, in_chans):
    vit = make_vit(in_chans=in_chans)
    assert vit.patch_embed.proj.weight.shape == (32, in_chans, 8, 8)
    assert vit(torch.randn(1, in_chans, 32, 32))[0].shape == (1, 17, 32)


def test_embed_is_patches_plus_positions(make_vit, imgs):
    vit = make_vit()
    tokens = vit.embed(imgs)
    patch = imgs[1, :, 8:16, 24:32]  # row 1, column 3
    expected = (vit.patch_embed.proj.weight * patch).sum((1, 2, 3)) + vit.patch_embed.proj.bias
    torch.testing.assert_close(tokens[1, 7], expected + sincos_table(32, (4, 4))[7], rtol=1e-4, atol=1e-5)


def test_encode_takes_any_subset_in_any_order(make_vit, imgs):
    vit = make_vit()
    tokens = vit.embed(imgs)
    out, order = vit.encode(tokens), torch.randperm(16)
    turned = vit.encode(tokens[:, order])
    torch.testing.assert_close(turned[:, 0], out[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned[:, 1:], out[:, 1:][:, order], rtol=1e-4, atol=1e-5)
    assert vit.encode(tokens[:, :3]).shape == (2, 4, 32)


def test_table_of_a_new_model_is_fixed(make_vit):
    vit = make_vit(img_size=(16, 48))
    assert torch.equal(vit.pos_embed[0, 1:], sincos_table(32, (2, 6)))
    assert (vit.pos_embed[0, 0] == 0).all() and vit.pos_embed.shape == (1, 13, 32)


# --- windows and relative positions


def test_blocks_but_the_last_of_each_quarter_see_their_window_alone(make_vit):
    """A change in the last window reaches the first one in block 2 of 8, not before."""
    vit = make_vit(
        arch=dict(TINY, depth=8), out_type='featmap', window_size=2, rel_pos=True, out_indices=(0, 1)).eval()
    imgs = torch.randn(1, 3, 32, 32)
    changed = imgs.clone()
    changed[..., 16:, 16:] += 1
    (before, after), (changed_before, changed_after) = vit(imgs), vit(changed)
    assert torch.equal(before[..., :2, :2], changed_before[..., :2, :2])
    assert not torch.allclose(before[..., 2:, 2:], changed_before[..., 2:, 2:])
    assert not torch.allclose(after[..., :2, :2], changed_after[..., :2, :2])


@pytest.mark.parametrize('options', [dict(window_size=3), dict()])
def test_zero_tables_change_nothing(make_vit, options: dict) -> None:
    """A transfer starts from the very features of pre-training."""
    imgs = torch.randn(2, 3, 40, 56)
    plain = make_vit(arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', **options)
    relative = make_vit(
        arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', rel_pos=True, checkpointing=True, **options)
    missing = relative.load_state_dict({
        **{name: torch.zeros_like(value) for name, value in relative.state_dict().items() if '.rel_pos' in name},
        **plain.state_dict()}).missing_keys
    assert not missing
    torch.testing.assert_close(relative(imgs)[0], plain(imgs)[0], rtol=1e-5, atol=1e-5)


def test_checkpointing_is_bit_equal(make_vit) -> None:
    imgs = torch.randn(2, 3, 40, 56)
    options = dict(arch=dict(embed_dim=32, depth=5, num_heads=2), out_type='featmap', window_size=3, rel_pos=True,
                   drop_path_rate=0.5)
    plain, sparing = make_vit(**options), make_vit(**options, checkpointing=True)
    sparing.load_state_dict(plain.state_dict())
    for vit in (plain, sparing):
        torch.manual_seed(1)
        vit.train()(imgs)[0].square().sum().backward()
    for ours, theirs in zip(plain.parameters(), sparing.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


# --- stochastic depth


def test_drop_path_grows_from_0_to_the_rate(make_vit):
    vit = make_vit(arch=dict(TINY, depth=5), drop_path_rate=0.4)
    for branch in ('drop_path1', 'drop_path2'):
        rates = [getattr(getattr(block, branch), 'drop_prob', 0) for block in vit.blocks]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert not any('drop' in type(module).__name__.lower() and getattr(module, 'drop_prob', 0)
                   for module in make_vit().modules())


def test_drop_path_acts_in_training_only(make_vit, imgs):
    vit = make_vit(drop_path_rate=0.9)
    vit.eval()
    assert torch.equal(vit(imgs)[0], vit(imgs)[0])
    vit.train()
    assert len({vit(imgs)[0].sum().item() for _ in range(8)}) > 1


# --- partial fine-tuning


def block_names(*numbers: int) -> set[str]:
    parts = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    return {f'blocks.{i}.{part}.{kind}' for i in numbers for part in parts for kind in ('weight', 'bias')}


BELOW = {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias'}
NORM, POOL = {'norm.weight', 'norm.bias'}, {'fc_norm.weight', 'fc_norm.bias'}
LAST_MLP = {name for name in block_names(2) if 'norm2' in name or 'mlp' in name}


@pytest.mark.parametrize('out_type, tuned, expected', [
    ('cls_token', 0, set()),
    ('cls_token', 0.5, LAST_MLP | NORM),
    ('cls_token', 1, block_names(2) | NORM),
    ('cls_token', 2, block_names(1, 2) | NORM),
    ('cls_token', 3, block_names(0, 1, 2) | NORM | BELOW),
    ('cls_token', None, block_names(0, 1, 2) | NORM | BELOW),
    ('avg_featmap', 0, POOL),
    ('avg_featmap', 0.5, LAST_MLP | POOL),
    ('avg_featmap', 1, block_names(2) | POOL),
    ('featmap', 0, set()),
    ('featmap', 2, block_names(1, 2)),
])
def test_what_is_tuned(make_vit, imgs, out_type, tuned, expected):
    vit = make_vit(arch=dict(TINY, depth=3), out_type=out_type, tuned_blocks=tuned)
    assert {name for name, param in vit.named_parameters() if param.requires_grad} == expected
    if not expected:
        assert not vit(imgs)[0].requires_grad
        return
    before = {name: param.detach().clone() for name, param in vit.named_parameters()}
    optimizer = torch.optim.AdamW(vit.parameters(), lr=0.1, weight_decay=0.5)
    out, = vit.train()(imgs)
    (out * torch.randn_like(out)).sum().backward()
    optimizer.step()
    assert {name for name, param in vit.named_parameters() if not torch.equal(param, before[name])} == expected


@pytest.mark.parametrize('tuned, in_training', [
    (0, [False, False, False]), (0.5, [False, False, True]), (1, [False, False, True]), (2, [False, True, True]),
    (3, [True, True, True]), (None, [True, True, True])])
def test_frozen_blocks_stay_in_evaluation_mode(make_vit, imgs, tuned, in_training):
    vit = make_vit(arch=dict(TINY, depth=3), tuned_blocks=tuned, drop_path_rate=0.9)
    vit.train()
    assert vit.training and [block.training for block in vit.blocks] == in_training
    assert (len({vit(imgs)[0].sum().item() for _ in range(8)}) == 1) == (tuned == 0)
    vit.eval()
    assert not any(module.training for module in vit.modules())


# --- initialisation


def test_initialisation_as_published():
    vit = ViT(dict(embed_dim=96, depth=2, num_heads=2), img_size=32, patch_size=8, in_chans=5)
    with torch.no_grad():
        for name, param in vit.named_parameters():
            if name != 'pos_embed':
                param.fill_(9)
    vit.patch_embed.proj.bias.data.zero_()
    vit.init_weights()

    def is_xavier(weight: torch.Tensor) -> None:  # uniform in ±bound
        fan_out, fan_in = weight.flatten(1).shape
        bound = (6 / (fan_in + fan_out))**0.5
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert abs(weight.mean()) < 0.03 * bound

    linear = [module for module in vit.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 8
    for layer in linear:
        is_xavier(layer.weight)
        assert (layer.bias == 0).all()
    is_xavier(vit.patch_embed.proj.weight)  # as a linear layer on 8 * 8 * 5 values
    norms = [module for module in vit.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5
    for norm in norms:
        assert (norm.weight == 1).all() and (norm.bias == 0).all() and norm.eps == 1e-6
    assert 0.014 < vit.cls_token.std() < 0.026 and vit.cls_token.abs().max() < 0.1  # std 0.02, 96 numbers
    assert torch.equal(vit.pos_embed, fixed_table(96, (4, 4)))


def test_initialisation_follows_the_seed():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        vit = ViT(TINY, 32, 8)
        vit.init_weights()
        states.append(vit.state_dict())
    same, other = ([torch.equal(states[0][name], state[name]) for name in state] for state in states[1:])
    assert all(same) and not all(other)


# --- mistakes


@pytest.mark.parametrize('options, message', [
    (dict(arch='gigantic'), "arch='gigantic' must be one of tiny, small, base, large, huge"),
    (dict(arch=dict(embed_dim=32, depth=2)), "'depth': 2} must have embed_dim, depth and num_heads"),
    (dict(arch=dict(TINY, heads=2)), "'heads': 2} must have embed_dim, depth and num_heads"),
    (dict(arch=dict(TINY, num_heads=3)), 'embed_dim must be a multiple of num_heads'),
    (dict(out_type='avg'), "out_type='avg' must be one of raw, cls_token, avg_featmap, featmap"),
    (dict(out_indices=(0, 2)), r'out_indices=\(0, 2\) .* 2 blocks'),
    (dict(out_indices=(-3, )), r'out_indices=\(-3,\) .* 2 blocks'),
    (dict(out_indices=(0, 2, 1)), r'out_indices=\(0, 2, 1\) .* 2 blocks'),
    (dict(out_indices=()), r'out_indices=\(\)'),
    (dict(img_size=30), '30x30 px .* patches of 8 px; .* e.g. 32x32'),
    (dict(img_size=(32, 36)), '32x36 px'),
    (dict(tuned_blocks=-1), 'tuned_blocks=-1'),
    (dict(tuned_blocks=1.5), 'tuned_blocks=1.5'),
    (dict(tuned_blocks=3), 'tuned_blocks=3'),
    (dict(window_size=3), "window_size=3 needs out_type='featmap', got 'raw'"),
], ids=lambda value: str(value) if isinstance(value, dict) else '')
def test_bad_option_is_refused_with_its_value(make_vit, options, message):
    with pytest.raises(ValueError, match=message):
        make_vit(**options)


@pytest.mark.parametrize('shape, message', [
    ((1, 3, 32, 36), '32x36 px .* patches of 8 px'),
    ((1, 1, 32, 32), 'images have 1 channels, the model takes 3; set backbone.in_chans'),
    ((1, 4, 32, 32), 'images have 4 channels, the model takes 3'),
])
@pytest.mark.parametrize('out_type', OUT_TYPES)
def test_bad_image_is_refused_with_its_size(make_vit, shape, message, out_type):
    with pytest.raises(ValueError, match=message):
        make_vit(out_type=out_type)(torch.zeros(shape))
