"""Training steps on fake `cuda` tensors, without a GPU: right devices, and nothing asks for a value on the host.

Fake tensors have no values: `.item()`, `.tolist()`, `.any()` in an `if` raise. The backward pass needs a real device:
it runs on fake tensors of the CPU. On those of the GPU gradients are put there by hand, and the optimizer's step, the
guard and the hooks' sums run on them.
"""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, BaseModule
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mae_mm.benchmark.detector import build_detector
from mae_mm.benchmark.gpu_hosts import build_segmentor, label_maps
from mae_mm.benchmark.gpu_steps import TINY, batch, optim_wrapper, tiny_mae, variants
from mae_mm.engine.hooks import NonFiniteHook, RuntimeInfoHook
from mae_mm.models import masking
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.mae import MAE
from mae_mm.models.necks import FourTapPyramid
from mae_mm.models.vit import ViT
from mae_mm.registry import MODELS


def make_fake(module: nn.Module, device: str) -> nn.Module:
    """A module that was built of real tensors, because the host's code reads values."""
    mode = torch._guards.detect_fake_mode([torch.zeros(1)])
    for part in module.modules():
        for values in (part._parameters, part._buffers):
            for name, value in values.items():
                if value is not None:
                    fake = torch.empty_like(mode.from_tensor(value), device=device)
                    values[name] = nn.Parameter(fake, value.requires_grad) if values is part._parameters else fake
    if hasattr(module, '_set_device'):
        module._set_device(torch.device(device))
    return module


def build(name: str, device: str) -> nn.Module:
    """One of `variants`; mmpretrain's ResNet is built with `.item()`."""
    if name != 'convolutions':
        model = variants()[name](device)
    else:
        with unset_fake_temporarily(), torch.device('cpu'):
            model = variants()[name]('cpu')
        model = make_fake(model, device).train()
    if name == 'PCA target':
        model.target_generator._is_fitted = True  # read in the first step of a run
    return model


@pytest.fixture(autouse=True)
def real_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block masks are made of real noise on the CPU, by a loop that ends early, and then sent to the GPU."""
    def sample(noise: torch.Tensor, *args: object) -> masking.PatchMask:
        assert noise.device.type == 'cpu'
        mode = torch._guards.detect_fake_mode([noise])
        with unset_fake_temporarily(), torch.device('cpu'):
            real = masking.block_masking(torch.rand(noise.shape), *args)
        return masking.PatchMask(*map(mode.from_tensor, real))

    monkeypatch.setitem(masking.SAMPLERS, 'block', sample)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Every tensor made here is fake, and on the GPU unless it says otherwise."""
    monkeypatch.setattr(BaseModule, 'init_weights', lambda self: None)  # mmengine's compares the means of weights
    # Models are made on the GPU; what is left for `to` is to tell the preprocessor.
    monkeypatch.setattr(BaseModel, 'to', lambda self, device: self._set_device(torch.device(device)) or self)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device('cuda'):
        yield


def step(model: MAE, wrapper: object) -> dict:
    """Forward pass, made-up gradients, guard and optimizer."""
    data = model.data_preprocessor(batch('cpu'), True)
    losses = model.loss(**data)
    for param in model.parameters():
        if param.requires_grad:
            param.grad = torch.zeros_like(param)
    wrapper.step()
    return losses


@pytest.mark.parametrize('name', variants())
def test_a_step_stays_on_the_gpu_and_asks_nothing(fake, name: str) -> None:
    model = build(name, 'cuda')
    wrapper = optim_wrapper(model, clip_grad=dict(max_norm=1.0))
    wrapper.reports_norm = False  # as `RuntimeInfoHook` sets it
    losses = step(model, wrapper)
    assert losses['loss'].dtype == torch.float32 and losses['loss'].shape == ()
    state = tree_leaves(list(wrapper.optimizer.state.values()))
    numbers = [losses['loss'], wrapper.bad_step, wrapper.grad_norm, *state]
    assert {number.device.type for number in numbers} == {'cuda'} and len(numbers) > 20


@pytest.mark.parametrize('name', variants())
def test_a_backward_pass_asks_nothing(fake, name: str) -> None:
    with torch.device('cpu'):
        model = build(name, 'cpu')
        wrapper = optim_wrapper(model, clip_grad=dict(max_norm=1.0))
        wrapper.reports_norm = False
        wrapper.update_params(model.loss(**model.data_preprocessor(batch('cpu'), True))['loss'])
    assert wrapper.bad_step.ndim == 0 and len(wrapper.optimizer.state) > 20


class OperationsOnUint16(TorchDispatchMode):
    """Names of the operations that take uint16 tensors on the GPU: torch has kernels for copies and casts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, torch.Tensor) and one.dtype == torch.uint16 and one.device.type == 'cuda':
                self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options, shape', [
    ({}, (2, 2, 3, 8, 8)), ({}, None), (dict(to_rgb=True), (2, 3, 8, 8)), (dict(per_image=True), None),
    (dict(clip=([0, 0, 0], [9, 9, 9])), (2, 3, 8, 8))])
def test_16_bits_are_only_moved_and_cast_on_the_gpu(fake, options: dict, shape: tuple[int, ...] | None) -> None:
    """Batches, batches of several views, and lists of images."""
    preprocessor = ImagePreprocessor(**options)
    for part in preprocessor.modules():
        part._device = torch.device('cuda')
    with torch.device('cpu'):
        imgs = torch.zeros(shape, dtype=torch.uint16) if shape else [torch.zeros(3, 8, 8, dtype=torch.uint16)] * 2
    with OperationsOnUint16() as operations:
        out = preprocessor(dict(inputs=imgs, data_samples=None))['inputs']
    assert out.device.type == 'cuda' and out.dtype == torch.float32 and out.ndim == 4
    assert {'_to_copy'} <= operations.names <= {'_to_copy', 'view', 'device'}


class NoKernels:
    """mmcv's operators, which have no fake kernels: they write into tensors that are there already."""

    def __getattr__(self, name: str) -> Callable:
        return lambda *args, **options: None


def detect(device: str) -> tuple[nn.Module, torch.Tensor]:
    """Mask R-CNN with windows and relative positions, to the outputs of its heads for made-up regions of one level.

    Choosing regions and levels, matching with objects, and losses are mmdet's, and read values (`nonzero`, `.any()`).
    """
    with unset_fake_temporarily(), torch.device('cpu'):
        model = build_detector('windows, relative positions', 'tiny', 64, 'cpu')
        model.backbone.bf16 = True
    make_fake(model, device)
    features = model.extract_feat(torch.rand(2, 3, 64, 64))
    regions, head = torch.rand(6, 5), model.roi_head
    assert len(features) == 5 and {one.dtype for one in features} == {torch.float32}
    boxes, masks = (extract.roi_layers[0](features[0], regions) for extract in (
        head.bbox_roi_extractor, head.mask_roi_extractor))
    outs = [model.rpn_head(features), head.bbox_head(boxes), head.mask_head(masks)]
    return model, sum(leaf.float().sum() for leaf in tree_leaves(outs) if isinstance(leaf, torch.Tensor))


def segment(device: str) -> tuple[nn.Module, torch.Tensor]:
    """UperNet with offset bias, to its loss. Its accuracy is mmseg's, and leaves out pixels (a shape of values)."""
    with unset_fake_temporarily(), torch.device('cpu'):
        model, size = build_segmentor(True, 'cpu')
    make_fake(model, device)
    with torch.autocast(device, torch.bfloat16):
        losses = model.loss(*label_maps(size, device))
    return model, sum(value for name, value in losses.items() if 'loss' in name)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module('mmcv.ops.roi_align'), 'ext_module', NoKernels())
    monkeypatch.setattr('mmseg.models.decode_heads.decode_head.accuracy', lambda seg, *args, **options: seg.new_ones(1))


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('run', [detect, segment])
def test_detectors_and_segmentors_stay_on_their_device_and_ask_nothing(
    fake, without_kernels, run: Callable, device: str,
) -> None:
    with torch.device(device):
        model, loss = run(device)
        assert loss.device.type == device and loss.dtype == torch.float32
        wrapper = build_optim_wrapper(model, dict(
            type='mae_mm.GuardedOptimWrapper', constructor='mae_mm.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, fused=True)))
        if device == 'cpu':
            wrapper.update_params(loss)
        else:
            for param in model.parameters():
                param.grad = torch.zeros_like(param)
            wrapper.step()
        assert wrapper.bad_step.device.type == device and len(wrapper.optimizer.state) > 100


@pytest.mark.parametrize('run', [detect, segment])
def test_an_item_planted_in_an_encoder_or_pyramid_is_noticed(
    fake, without_kernels, monkeypatch: pytest.MonkeyPatch, run: Callable,
) -> None:
    for part in (ViT, FourTapPyramid):
        def forward(self: nn.Module, x: object, original: Callable = part.forward) -> object:
            tree_leaves(x)[0].sum().item()
            return original(self, x)

        with monkeypatch.context() as patch, pytest.raises(DataDependentOutputException):
            patch.setattr(part, 'forward', forward)
            run('cuda')


def transfer_model(name: str) -> nn.Module:
    """Of real tensors on the CPU: a classifier, or an encoder with relative positions and its pyramid."""
    options = dict(type='mae_mm.ViT', arch=TINY, img_size=64, patch_size=8, drop_path_rate=0.1)
    with unset_fake_temporarily(), torch.device('cpu'):  # the constructor reads rates of drop path
        if name == 'classification':
            return MODELS.build(dict(
                type='mmpretrain.ImageClassifier', backbone=dict(options, out_type='avg_featmap'),
                head=dict(type='mae_mm.LinearClsHead', num_classes=5, in_channels=TINY['embed_dim'])))
        relative = dict(rel_pos=True, window_size=4 * (name == 'windows'), out_type='featmap')
        return nn.Sequential(
            MODELS.build(dict(options, **relative, arch=dict(TINY, depth=8), out_indices=(1, 3, 5, 7))),
            MODELS.build(dict(type='mae_mm.FourTapPyramid', embed_dim=TINY['embed_dim'])))


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('name', ['classification', 'windows', 'offsets'])
def test_transfers_stay_on_their_device_and_ask_nothing(fake, name: str, device: str) -> None:
    """A classifier, and the encoders and pyramids of detectors and segmentors, whose heads' losses read values."""
    model = transfer_model(name)
    with torch.device(device):
        make_fake(model, device).train()
        imgs = torch.rand(2, 3, 64, 64)
        with torch.autocast(device, torch.bfloat16):
            if name == 'classification':
                samples = [DataSample().set_gt_label(torch.zeros(1, dtype=torch.int64)) for _ in range(2)]
                outs = [model.loss(imgs, samples)['loss']]
            else:
                outs = model(imgs)
        assert {out.device.type for out in outs} == {device}
        if device == 'cpu':
            sum(out.float().sum() for out in outs).backward()
            assert all(param.grad is not None for param in model.parameters() if param.requires_grad)


@pytest.mark.parametrize('name', ['windows', 'offsets'])
def test_attention_meets_the_conditions_of_fused_kernels(fake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What torch's memory-efficient kernel asks for. Without a GPU torch never chooses it, so that is not tested."""
    calls = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None, **how: object):
        calls.append(attn_mask)
        given = [one for one in (q, k, v, attn_mask) if one is not None]
        assert {(one.dtype, one.stride(-1)) for one in given} == {(torch.bfloat16, 1)}
        assert len({one.shape[-1] for one in (q, k, v)}) == 1 and q.shape[-1] % 8 == 0
        if attn_mask is not None:
            assert attn_mask.shape == (q.shape[1], q.shape[2], k.shape[2])
        return torch.empty_like(v)

    model = transfer_model(name)
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', attend)
    # Without a GPU autocast would switch itself off.
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **options: True)
    make_fake(model, 'cuda').train()
    with torch.autocast('cuda', torch.bfloat16):
        model(torch.rand(2, 3, 64, 64))
    assert len(calls) == 8 and {mask is None for mask in calls} == {name == 'windows'}


def test_hooks_keep_their_sums_on_the_gpu(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_mae('cuda')
    wrapper = optim_wrapper(model)
    runner = SimpleNamespace(optim_wrapper=wrapper, iter=0)
    scalars, bad_steps = RuntimeInfoHook(), NonFiniteHook(interval=100)
    scalars.sums, scalars.count = {}, 0
    monkeypatch.setattr('mae_mm.engine.hooks.scalars.is_due', lambda *args: False)
    bad_steps.names, bad_steps.steps = [], []
    monkeypatch.setattr(bad_steps, 'is_last_train_iter', lambda runner: False)
    for _ in range(2):
        losses = step(model, wrapper)
        for hook in (scalars, bad_steps):
            hook.after_train_iter(runner, 0, dict(img_path=['a.jpg']), losses)
    assert scalars.sums['loss'].is_cuda and len(bad_steps.steps) == 2


def test_a_planted_item_is_noticed(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_mae('cuda')
    compare = model.compare
    monkeypatch.setattr(model, 'compare', lambda *args: compare(*args) * compare(*args).item())
    with pytest.raises(DataDependentOutputException):
        step(model, optim_wrapper(model))


def test_an_item_planted_in_a_backward_pass_is_noticed(fake) -> None:
    with torch.device('cpu'):
        model = tiny_mae('cpu')
        model.backbone.blocks[0].register_full_backward_hook(lambda module, grads, outs: print(grads[0].sum().item()))
        losses = model.loss(**model.data_preprocessor(batch('cpu'), True))
        with pytest.raises(DataDependentOutputException):
            optim_wrapper(model).update_params(losses['loss'])


def test_grad_norms_read_in_each_step_are_noticed(fake) -> None:
    model = tiny_mae('cuda')
    with pytest.raises(DataDependentOutputException):
        step(model, optim_wrapper(model, clip_grad=dict(max_norm=1.0)))
