from collections.abc import Callable

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from mae_mm.checkpoint import load_exactly
from mae_mm.engine import runner as launch
from mae_mm.models.masked_conv import MaskedConv, hide_pixels
from mae_mm.models.masking import random_masking
from mae_mm.models.patches import patchify
from mae_mm.registry import MODELS

RESNET = dict(depth=18, stem_channels=8, base_channels=8, strides=(1, 2, 2, 1))  # stride 16


@pytest.fixture
def make_conv() -> Callable[..., MaskedConv]:
    def make(**options) -> MaskedConv:
        model = MaskedConv(**{
            'backbone': dict(type='mmpretrain.ResNet', **RESNET), 'patch_size': 16, 'mask_ratio': 0.5,
            'neck': dict(type='mae_mm.ConvDecoder', in_channels=64, stride=16, embed_dim=32), **options})
        model.init_weights()
        return model
    return make


@pytest.fixture
def wide() -> Tensor:
    """(2, 3, 32, 64) noise: 2 x 4 patches of 16 px."""
    return torch.randn(2, 3, 32, 64)


def test_pixels_are_hidden_in_patches():
    imgs = torch.ones(1, 2, 4, 6)
    out = hide_pixels(imgs, torch.tensor([[True, False, False, False, False, True]]), 2)
    assert out[0, 1].int().tolist() == [[0, 0, 1, 1, 1, 1]] * 2 + [[1, 1, 1, 1, 0, 0]] * 2


def test_loss_is_l1_on_the_hidden_pixels(make_conv, wide):
    model, noise = make_conv().eval(), torch.rand(2, 8)
    pred, mask = model.reconstruct(wide, noise)
    assert pred.shape == (2, 8, 768) and torch.equal(mask, random_masking(noise, 0.5).mask)
    expected = (pred - patchify(wide, 16))[mask].abs().mean().item()
    assert model.loss(wide, noise=noise)['loss'].item() == pytest.approx(expected, rel=1e-5)
    inputs = wide.clone().requires_grad_()
    model.reconstruct(inputs, noise).pred.square().sum().backward()
    grad = patchify(inputs.grad, 16)
    assert (grad[mask] == 0).all() and (grad[~mask] != 0).any()


def test_pixels_are_hidden_independently(make_conv, wide):
    """Bernoulli: a pixel is hidden where its own score is below the ratio; the loss is the mean over hidden pixels."""
    model = make_conv(mask_sampling='pixel', patch_size=1, mask_ratio=0.75).eval()
    noise = torch.rand(2, 32 * 64)
    inputs = wide.clone().requires_grad_()
    pred, mask = model.reconstruct(inputs, noise)
    assert torch.equal(mask, noise < 0.75) and pred.shape == (2, 32 * 64, 3)
    error = (pred - wide.flatten(2).transpose(1, 2)).abs().mean(-1)
    assert model.loss(wide, noise=noise)['loss'].item() == pytest.approx(error[mask].mean().item(), rel=1e-5)
    pred.square().sum().backward()
    grad = inputs.grad.flatten(2).transpose(1, 2)
    assert (grad[mask] == 0).all() and (grad[~mask] != 0).any()
    counts = model.reconstruct(wide.repeat(4, 1, 1, 1)).mask.sum(1)
    assert len(counts.unique()) > 1  # not a fixed number
    assert abs(counts.float().mean() - 1536) < 4 * (2048 * 0.75 * 0.25 / 8)**0.5  # four standard errors
    ramp = torch.arange(64.0).expand(1, 3, 32, 64)
    result = model.predict(ramp)[0]
    assert torch.equal(result['mask'], model.predict(ramp)[0]['mask']) and result['mask'].shape == (2048, )
    assert result['reconstruction'].shape == (3, 32, 64)
    assert result['interpolation'] < 1
    assert result['patch_mean'].item() == pytest.approx(16, rel=0.05)  # of the image's mean


@pytest.mark.parametrize('options', [dict(patch_size=16), dict(patch_size=1, norm_pix_loss=True)])
def test_pixel_masks_need_single_pixels(make_conv, options):
    with pytest.raises(ValueError, match=r"mask_sampling='pixel' .* patch_size=1 and norm_pix_loss=False"):
        make_conv(mask_sampling='pixel', **options)


def test_it_learns_and_validates_as_the_transformer_does(make_conv, wide):
    model, noise = make_conv(), torch.rand(2, 8)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(25):
        loss = model(wide, mode='loss', noise=noise)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    result = model.eval()(wide, mode='predict')[1]
    assert set(result) == {'loss', 'patch_mean', 'interpolation', 'flat', 'reconstruction', 'mask'}
    assert result['reconstruction'].shape == (3, 32, 64)
    target = patchify(wide, 16)[1]
    flat = (target - target.mean(-1, keepdim=True))[result['mask']].abs().mean()
    assert result['patch_mean'].item() == pytest.approx(flat.item(), rel=1e-4)  # L1, too
    assert model(wide)[0].shape == (2, 64, 2, 4)  # features of the whole image


def test_what_cannot_be_decoded_is_refused(make_conv, wide):
    for stride in (8, 12):
        model = make_conv(neck=dict(type='mae_mm.ConvDecoder', in_channels=64, stride=stride))
        with pytest.raises(ValueError, match=rf'set neck\.stride={stride} to the stride'):
            model.loss(wide)
    with pytest.raises(ValueError, match='mask_ratio=1'):
        make_conv(mask_ratio=1)


# --- its backbone in the hosts


@pytest.fixture
def checkpoint(make_conv, tmp_path) -> tuple[str, dict[str, Tensor]]:
    """A file as mmengine writes it, and the encoder's weights; norms are moved off 1 and 0."""
    model = make_conv()
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'conv.pth')
    return str(tmp_path / 'conv.pth'), {name: value.clone() for name, value in model.backbone.state_dict().items()}


def classifier() -> Config:
    return Config(dict(model=dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.ResNet', **RESNET),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=64,
                  loss=dict(type='mmpretrain.CrossEntropyLoss')))))


def detector() -> Config:
    """RetinaNet: the smallest of mmdet's that trains."""
    coder = dict(type='mmdet.DeltaXYWHBBoxCoder')
    return Config(dict(model=dict(
        type='mmdet.RetinaNet',
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='mmdet.ResNet', out_indices=(1, 2, 3), norm_eval=False, **RESNET),
        neck=dict(type='mmdet.FPN', in_channels=[16, 32, 64], out_channels=8, num_outs=3),
        bbox_head=dict(
            type='mmdet.RetinaHead', num_classes=2, in_channels=8, stacked_convs=1, feat_channels=8,
            anchor_generator=dict(type='mmdet.AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16, 16]),
            bbox_coder=coder),
        train_cfg=dict(
            assigner=dict(type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            allowed_border=-1, pos_weight=-1, debug=False))))


@pytest.mark.parametrize('make_host', [classifier, detector])
def test_one_checkpoint_starts_both_hosts(checkpoint, make_host, wide):
    file, weights = checkpoint
    cfg = make_host()
    launch.start_from(cfg, file)
    model = MODELS.build(cfg.model)
    model.init_weights()  # mmpretrain zeroes the last norm of each block here, unless it is told not to
    loaded = model.backbone.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    if make_host is classifier:
        from mmpretrain.structures import DataSample

        losses = model.loss(wide, [DataSample().set_gt_label(i) for i in range(2)])
    else:
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        sample = DetDataSample(
            metainfo=dict(img_shape=(32, 64), batch_input_shape=(32, 64), pad_shape=(32, 64), scale_factor=(1, 1)),
            gt_instances=InstanceData(bboxes=torch.tensor([[4.0, 4, 28, 28]]), labels=torch.tensor([1])))
        losses = model.loss(wide[:1], [sample])
    total = sum(value if isinstance(value, Tensor) else sum(value) for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert total.isfinite() and model.backbone.conv1.weight.grad.abs().max() > 0


def test_same_features_in_both_hosts(checkpoint, wide):
    outputs = []
    for host in ('mmpretrain', 'mmdet'):
        backbone = MODELS.build(dict(
            type=f'{host}.ResNet', out_indices=(3, ), init_cfg=dict(
                type='mae_mm.PretrainedConv', checkpoint=checkpoint[0]), **RESNET))
        backbone.init_weights()
        backbone.eval()  # mmdet's returns nothing
        outputs.append(backbone(wide)[0])
    assert torch.equal(*outputs) and outputs[0].std() > 0


@pytest.mark.parametrize('change, message', [
    (dict(depth=34), r'does not fit ResNet, and nothing was loaded: .* missing in the file'),
    (dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, )), 'left over'),
    (dict(base_channels=16), 'of another shape'),
])
def test_another_backbone_is_refused(checkpoint, change, message):
    backbone = MODELS.build(dict(type='mmpretrain.ResNet', **{**RESNET, **change}))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_exactly(backbone, checkpoint[0], 'backbone.')
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_a_file_without_a_backbone_is_refused(checkpoint, tmp_path):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'bare.pth')
    backbone = MODELS.build(dict(type='mmpretrain.ResNet', **RESNET))
    with pytest.raises(ValueError, match=r'none of its 1 tensors is called backbone\.'):
        load_exactly(backbone, tmp_path / 'bare.pth', 'backbone.')
    with pytest.raises(FileNotFoundError):
        load_exactly(backbone, tmp_path / 'none.pth', 'backbone.')


@pytest.mark.parametrize('name', ['masked_conv/pretrain_r50', 'masked_conv/pretrain_r50_pixel', 'demo/masked_conv'])
def test_recipes_hide_what_they_say(name):
    cfg = launch.load_config(f'configs/{name}.py')
    model = MODELS.build(cfg.model)
    size = cfg.train_dataloader.dataset.pipeline[0]['size']
    with torch.no_grad():
        pred, mask = model.reconstruct(torch.randn(2, 3, size, size))
    assert mask.shape == (2, (size // cfg.model.patch_size)**2) and pred.shape[:2] == mask.shape
    assert mask.float().mean().item() == pytest.approx(cfg.model.mask_ratio, abs=0.03)


def test_transfer_recipes_have_the_same_backbone(make_conv):
    """What pre-training writes fits what the hosts' recipes build, strictly."""
    pretraining = MODELS.build(launch.load_config('configs/masked_conv/pretrain_r50.py').model.backbone).state_dict()
    for name in ('finetune_r50_in1k', 'mask_rcnn_r50_coco'):
        cfg = launch.load_config(f'configs/masked_conv/{name}.py')
        backbone = MODELS.build({**cfg.model.backbone, 'type': f'{cfg.default_scope}.ResNet'})
        assert {key: value.shape for key, value in backbone.state_dict().items()} == {
            key: value.shape for key, value in pretraining.items()}
