"""Every foreign library loads, strictly, what this project writes, and gives the same features and loss."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from helpers.checkpoints import assert_same
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_mm.checkpoint import Checkpoint, load_pretrained, read_checkpoint, write_checkpoint
from mae_mm.models.mae import MAE
from mae_mm.models.masking import random_masking
from mae_mm.models.vit import ViT
from mae_mm.registry import MODELS

NOISE = torch.rand(2, 16, generator=torch.Generator().manual_seed(3))


def convert(module: nn.Module, path: Path, form: str, **settings: int | bool) -> Path:
    """Save a module as this project does and write that in another format."""
    torch.save(dict(state_dict=module.state_dict()), path.with_suffix('.ours'))
    checkpoint = read_checkpoint(path.with_suffix('.ours'))
    checkpoint.settings.update(settings)
    write_checkpoint(checkpoint, path, form)
    return path


def prefixed(vit: ViT) -> nn.Module:
    """A ViT as the backbone of something."""
    return nn.ModuleDict(dict(backbone=vit))


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@torch.no_grad()
def outcome(mae: MAE, imgs: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens with nothing masked, and the loss under `NOISE`."""
    return mae.eval().backbone(imgs)[0], mae.loss(imgs, noise=NOISE)['loss']


# timm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['vit.pth', 'vit.safetensors'])
@pytest.mark.parametrize('out_type', ['raw', 'avg_featmap'])
@torch.no_grad()
def test_timm_loads_what_we_write(make_vit: Callable, imgs: Tensor, tmp_path: Path, name: str, out_type: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    ours = make_vit(out_type=out_type).eval()
    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0,
        global_pool='avg' if out_type == 'avg_featmap' else '').eval()
    path = convert(prefixed(ours), tmp_path / name, 'timm')
    theirs.load_state_dict(load_file(path) if name.endswith('safetensors') else torch.load(path), strict=True)
    assert_close(theirs(imgs), ours(imgs)[0])


@torch.no_grad()
def test_timm_base_is_our_base() -> None:
    with torch.device('meta'):
        theirs = timm.create_model('vit_base_patch16_224', num_classes=0).eval()
    weights = {name: 0.05 * torch.randn(tensor.shape) for name, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(weights, assign=True, strict=True)
    ours = ViT(out_type='cls_token').eval()
    load_pretrained(ours, Checkpoint(weights, 'timm'))
    imgs = torch.randn(1, 3, 224, 224)
    assert_close(ours(imgs)[0], theirs(imgs))


# MoCo v3, DINO, DeiT, BEiT: names as in their releases, shapes of small models, two blocks ----------------------------


def release(name: str, **options: object) -> nn.Module:
    """A model of timm with random weights, class token off zero."""
    model = timm.create_model(name, depth=2, **options).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.05 * torch.randn_like(param))
    return model


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def moco_v3_file(encoder: nn.Module) -> dict:
    """Of main_moco.py: two encoders with projectors, a predictor, the optimizer."""
    projector = {
        'head.0.weight': torch.rand(4, 384), 'head.1.weight': torch.rand(4), 'head.1.bias': torch.rand(4),
        'head.1.running_mean': torch.rand(4), 'head.1.running_var': torch.rand(4),
        'head.1.num_batches_tracked': torch.tensor(9), 'head.3.weight': torch.rand(4, 4)}
    base = {**encoder.state_dict(), **projector}
    momentum = {name: 0 * tensor for name, tensor in base.items()}
    return dict(epoch=300, arch='vit_small', optimizer=dict(state={}, param_groups=[dict(lr=1.0)]), state_dict=under(
        'module.', {**under('base_encoder.', base), **under('momentum_encoder.', momentum),
                    'predictor.0.weight': torch.rand(4, 4)}))


def dino_file(encoder: nn.Module) -> dict:
    """Of main_dino.py: student and teacher with heads, the loss's centre, the command line."""
    head = {'head.mlp.0.weight': torch.rand(4, 384), 'head.last_layer.weight_g': torch.rand(4, 1)}
    teacher = {**under('backbone.', encoder.state_dict()), **head}
    student = under('module.', {name: 0 * tensor for name, tensor in teacher.items()})
    return dict(student=student, teacher=teacher, optimizer={}, epoch=100, args=argparse.Namespace(arch='vit_small'),
                dino_loss=dict(center=torch.zeros(1, 4)))


@pytest.mark.parametrize('name, options, wrap, ignored', [
    ('vit_small_patch16_224', dict(num_heads=12, num_classes=0), moco_v3_file, 'base_encoder.head.0.weight'),
    ('vit_small_patch8_224', dict(num_classes=0), dino_file, 'head.mlp.0.weight'),
    ('vit_small_patch16_224', dict(num_classes=0), lambda encoder: encoder.state_dict(), None),  # DINO's torch.hub
    ('deit_tiny_patch16_224', dict(), lambda model: dict(model=model.state_dict()), 'head.weight'),
    ('deit_tiny_distilled_patch16_224', dict(), lambda model: dict(model=model.state_dict()), 'dist_token'),
    ('deit_base_patch16_384', dict(num_classes=10), lambda model: dict(model=model.state_dict()), 'head.bias'),
])
@torch.no_grad()
def test_other_methods_start_a_vit(tmp_path: Path, name: str, options: dict, wrap: Callable, ignored: str) -> None:
    """As `init_cfg` of a config; the features are those of timm's model."""
    theirs = release(name, **options)
    torch.save(wrap(theirs), tmp_path / 'vit.pth.tar')
    arch = dict(embed_dim=theirs.embed_dim, depth=2, num_heads=theirs.blocks[0].attn.num_heads)
    side, patch_size = theirs.patch_embed.img_size[0], theirs.patch_embed.patch_size[0]
    ours = MODELS.build(dict(
        type='mae_mm.ViT', arch=arch, img_size=side, patch_size=patch_size,
        init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(tmp_path / 'vit.pth.tar')))).eval()
    ours.init_weights()
    if 'distilled' in name:  # judged without the token that a ViT does not have
        state, theirs = theirs.state_dict(), release('deit_tiny_patch16_224', **options)
        state['pos_embed'] = torch.cat([state['pos_embed'][:, :1], state['pos_embed'][:, 2:]], dim=1)
        theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
    imgs = torch.randn(1, 3, side, side)
    assert_close(ours(imgs)[0], theirs.forward_features(imgs))
    report = load_pretrained(ours, tmp_path / 'vit.pth.tar')
    assert not report.new and not report.resized
    assert ignored is None or ignored in report.ignored


@pytest.mark.parametrize('prefix', ['', 'base_encoder.', 'momentum_encoder.'])
def test_moco_v3_small_has_12_heads(tmp_path: Path, prefix: str) -> None:
    torch.save(moco_v3_file(release('vit_small_patch16_224', num_classes=0)), tmp_path / 'vit-s-300ep.pth.tar')
    vit = ViT(arch=dict(embed_dim=384, depth=2, num_heads=6))
    with pytest.raises(ValueError, match=r'384 wide, 2 deep, 12 heads, the model 384 wide, 2 deep, 6 heads'):
        load_pretrained(vit, tmp_path / 'vit-s-300ep.pth.tar', prefix)


@pytest.mark.parametrize('options', [dict(use_rel_pos_bias=True), dict(use_shared_rel_pos_bias=True)])
def test_beit_is_refused(tmp_path: Path, options: dict) -> None:
    model = release('beit_base_patch16_224', embed_dim=32, num_heads=2, init_values=0.1, **options)
    torch.save(dict(model={**model.state_dict(), 'mask_token': torch.rand(1, 1, 32)}), tmp_path / 'beit.pth')
    vit = ViT(arch=dict(embed_dim=32, depth=2, num_heads=2))
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    with pytest.raises(ValueError, match=r'(?s)beit\.pth .*without a place in the model: blocks\.0\.gamma_1.*BEiT'):
        load_pretrained(vit, tmp_path / 'beit.pth')
    assert_same(before, dict(vit.state_dict()))


# mmpretrain ----------------------------------------------------------------------------------------------------------


def mmpretrain_mae(norm_pix: bool) -> nn.Module:
    """mmpretrain's MAE at the size of ours, initialised, weights off their starting values."""
    from mmpretrain.registry import MODELS

    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=128)
    model = MODELS.build(dict(
        type='mmpretrain.MAE',
        backbone=dict(type='mmpretrain.MAEViT', arch=arch, img_size=32, patch_size=8),
        neck=dict(
            type='mmpretrain.MAEPretrainDecoder', num_patches=16, patch_size=8, embed_dim=32, decoder_embed_dim=16,
            decoder_depth=1, decoder_num_heads=2),
        head=dict(
            type='mmpretrain.MAEPretrainHead', norm_pix=norm_pix, patch_size=8,
            loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'))))
    model.init_weights()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if not name.endswith('pos_embed'):
                param.add_(0.1 * torch.randn_like(param))
    return model.eval()


@torch.no_grad()
def mmpretrain_outcome(model: nn.Module, imgs: Tensor) -> tuple[Tensor, Tensor]:
    """As `outcome`. The masks go in by hand: mmpretrain draws its own."""
    vit, masks = model.backbone, random_masking(NOISE, 0.75)
    tokens = vit.patch_embed(imgs)[0] + vit.pos_embed[:, 1:]
    visible = tokens.gather(1, masks.ids_keep[..., None].expand(-1, -1, 32))
    latent = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1), visible], dim=1)
    for layer in vit.layers:
        latent = layer(latent)
    pred = model.neck(vit.ln1(latent), masks.ids_restore)
    return model.extract_feat(imgs)[0], model.head.loss(pred, imgs, masks.mask.float())


@pytest.mark.parametrize('norm_pix', [False, True])
def test_mmpretrain_loads_what_we_write(make_mae: Callable, imgs: Tensor, tmp_path: Path, norm_pix: bool) -> None:
    from mmengine.runner import load_checkpoint

    ours, theirs = make_mae(norm_pix_loss=norm_pix), mmpretrain_mae(norm_pix)
    load_checkpoint(theirs, str(convert(ours, tmp_path / 'mae.pth', 'mmpretrain')), strict=True)
    for left, right in zip(outcome(ours, imgs), mmpretrain_outcome(theirs, imgs), strict=True):
        assert_close(left, right)


@pytest.mark.parametrize('norm_pix', [False, True])
def test_we_load_what_mmpretrain_writes(make_mae: Callable, imgs: Tensor, tmp_path: Path, norm_pix: bool) -> None:
    ours, theirs = make_mae(norm_pix_loss=norm_pix), mmpretrain_mae(norm_pix)
    assert not torch.allclose(ours.backbone.pos_embed, theirs.backbone.pos_embed)  # halves of the channels swapped
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'mae.pth')
    load_pretrained(ours, tmp_path / 'mae.pth')
    for left, right in zip(outcome(ours, imgs), mmpretrain_outcome(theirs, imgs), strict=True):
        assert_close(left, right)


@torch.no_grad()
def test_mmpretrain_loads_a_fine_tuned_classifier(make_vit: Callable, imgs: Tensor, tmp_path: Path) -> None:
    from mmpretrain.registry import MODELS

    def classifier(backbone: dict) -> nn.Module:
        return MODELS.build(dict(
            type='mmpretrain.ImageClassifier', backbone=backbone,
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32, topk=(1, )))).eval()

    tiny = dict(embed_dim=32, depth=2, num_heads=2)
    ours = classifier(dict(type='mae_mm.ViT', arch=tiny, img_size=32, patch_size=8, out_type='avg_featmap'))
    ours.backbone.load_state_dict(make_vit(out_type='avg_featmap').state_dict())
    theirs = classifier(dict(
        type='mmpretrain.VisionTransformer', img_size=32, patch_size=8, out_type='avg_featmap', final_norm=False,
        norm_cfg=dict(type='LN', eps=1e-6),
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=128)))
    theirs.load_state_dict(torch.load(convert(ours, tmp_path / 'x.pth', 'mmpretrain'))['state_dict'], strict=True)
    assert_close(ours.head(ours.extract_feat(imgs)), theirs.head(theirs.extract_feat(imgs)))


def test_mmpretrain_with_layer_scale_is_refused(tmp_path: Path) -> None:
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=128)
    theirs = VisionTransformer(arch, img_size=32, patch_size=8, layer_scale_init_value=1e-5)
    torch.save(theirs.state_dict(), tmp_path / 'scaled.pth')
    ours = ViT(dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match=r'4 without a place in the model: blocks\.0\.attn\.gamma1\.weight'):
        load_pretrained(ours, tmp_path / 'scaled.pth')
    assert_same(before, dict(ours.state_dict()))


# transformers --------------------------------------------------------------------------------------------------------


def hf_outcome(model: nn.Module, imgs: Tensor) -> tuple[Tensor, Tensor]:
    """As `outcome`, of a `ViTMAEForPreTraining`."""
    return hf_features(model.vit, imgs), model(imgs, noise=NOISE).loss.detach()


@torch.no_grad()
def hf_features(vit: nn.Module, imgs: Tensor) -> Tensor:
    """All tokens of a `ViTMAEModel`, with nothing masked."""
    vit.config.mask_ratio, ratio = 0.0, vit.config.mask_ratio
    tokens = vit(imgs, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    vit.config.mask_ratio = ratio
    return tokens


def from_pretrained(name: str, path: Path) -> nn.Module:
    """Load a folder strictly: no tensor missing, unexpected or of another shape."""
    transformers = pytest.importorskip('transformers')
    model, info = getattr(transformers, name).from_pretrained(path, output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    return model.eval()


@pytest.mark.parametrize('norm_pix', [False, True])
def test_transformers_loads_what_we_write(make_mae: Callable, imgs: Tensor, tmp_path: Path, norm_pix: bool) -> None:
    ours = make_mae(norm_pix_loss=norm_pix)
    folder = convert(
        ours, tmp_path / 'vit_mae', 'huggingface', num_heads=2, decoder_num_heads=2, norm_pix_loss=norm_pix)
    theirs = from_pretrained('ViTMAEForPreTraining', folder)
    assert theirs.config.layer_norm_eps == 1e-6
    for left, right in zip(outcome(ours, imgs), hf_outcome(theirs, imgs), strict=True):
        assert_close(left, right)


def test_transformers_loads_an_encoder(make_vit: Callable, imgs: Tensor, tmp_path: Path) -> None:
    ours = make_vit().eval()
    folder = convert(prefixed(ours), tmp_path / 'encoder', 'huggingface', num_heads=2)
    theirs = from_pretrained('ViTMAEModel', folder)
    theirs.load_state_dict(load_file(folder / 'model.safetensors'), strict=True)  # the names themselves, too
    assert_close(hf_features(theirs, imgs), ours(imgs)[0].detach())


@pytest.mark.parametrize('norm_pix', [False, True])
def test_we_load_what_transformers_writes(make_mae: Callable, imgs: Tensor, tmp_path: Path, norm_pix: bool) -> None:
    transformers = pytest.importorskip('transformers')
    theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, layer_norm_eps=1e-6, norm_pix_loss=norm_pix)).eval()
    theirs.save_pretrained(tmp_path)
    ours = make_mae(norm_pix_loss=norm_pix)
    report = load_pretrained(ours, tmp_path)
    assert report.checkpoint.settings['norm_pix_loss'] is norm_pix
    for left, right in zip(outcome(ours, imgs), hf_outcome(theirs, imgs), strict=True):
        assert_close(left, right)
    theirs.vit.save_pretrained(tmp_path / 'encoder')
    vit = ViT(arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8).eval()
    load_pretrained(vit, tmp_path / 'encoder' / 'model.safetensors')
    assert all(torch.equal(tensor, ours.backbone.state_dict()[name]) for name, tensor in vit.state_dict().items())
