from contextlib import contextmanager

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mae_mm.engine.optim import optim_wrapper
from mae_mm.engine.optim.optim_wrapper import AutocastOptimWrapper
from mae_mm.models.mae import MAE


def wrap(model: nn.Module, optimizer: type = torch.optim.SGD, lr: float = 1.0, **options) -> AutocastOptimWrapper:
    params = [param for param in model.parameters() if param.requires_grad]
    return OPTIM_WRAPPERS.build(dict(
        type='mae_mm.AutocastOptimWrapper', optimizer=optimizer(params, lr=lr), **{'dtype': 'bfloat16', **options}))


def weights(model: MAE) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters() if param.requires_grad])


def test_forward_is_bfloat16_and_all_that_stays_is_float32(make_mae, imgs):
    mae, seen = make_mae(), {}
    for name, module in mae.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out.dtype}))
    wrapper = wrap(mae, torch.optim.AdamW, lr=1e-3)
    assert isinstance(wrapper, AutocastOptimWrapper)
    before, grads = weights(mae), {}
    for name, param in mae.named_parameters():
        if param.requires_grad:
            param.register_hook(lambda grad, name=name: grads.update({name: grad.dtype}))
    logs = mae.train_step(dict(inputs=imgs), wrapper)

    assert len(seen) == 1 + 2 * 4 + 4 + 2 and set(seen.values()) == {torch.bfloat16}
    assert logs['loss'].dtype == torch.float32
    assert set(grads) == {name for name, param in mae.named_parameters() if param.requires_grad}
    assert set(grads.values()) == {torch.float32}
    assert {param.dtype for param in mae.parameters()} == {torch.float32}
    state = [value for slot in wrapper.optimizer.state.values() for value in slot.values()]
    assert state and {value.dtype for value in state} == {torch.float32}
    assert not torch.equal(weights(mae), before)


def test_autocast_ends_with_the_forward_pass(make_mae, imgs):
    mae = make_mae()
    wrapper = wrap(mae)
    with wrapper.optim_context(mae):
        assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') == torch.bfloat16
    assert not torch.is_autocast_enabled('cpu')
    with pytest.raises(ValueError, match='channels'), wrapper.optim_context(mae):
        mae.loss(imgs[:, :1])
    assert not torch.is_autocast_enabled('cpu')


def test_step_is_that_of_the_plain_wrapper_within_bfloat16(make_mae, imgs):
    mae, data = make_mae(), dict(inputs=imgs, noise=torch.rand(2, 16))
    start, updates = {name: value.clone() for name, value in mae.state_dict().items()}, {}
    for dtype in ('bfloat16', 'float16', 'float32', None):
        mae.load_state_dict(start)
        before = weights(mae)
        mae.train_step(data, wrap(mae, dtype=dtype) if dtype else OptimWrapper(torch.optim.SGD(mae.parameters(), 1.0)))
        updates[dtype] = weights(mae) - before
    differences = {dtype: ((update - updates[None]).norm() / updates[None].norm()) for dtype, update in updates.items()}
    assert 0 < differences['float16'] < 0.003 < differences['bfloat16'] < 0.03
    assert differences['float32'] == 0


def test_auto_is_what_the_device_multiplies(make_mae, monkeypatch):
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(optim_wrapper, 'native_dtype', lambda device, dtype=dtype: (dtype, ''))
        assert wrap(make_mae(), dtype='auto').dtype == dtype
    with pytest.raises(ValueError, match=r"optim_wrapper\.dtype='half' must be one of auto, bfloat16"):
        wrap(make_mae(), dtype='half')


def test_float16_scales_the_loss_and_halves_the_scale_after_an_overflow(make_mae, imgs):
    mae = make_mae()
    wrapper = wrap(mae, torch.optim.AdamW, lr=1e-3, dtype='float16', clip_grad=dict(max_norm=1.0))
    mae.train_step(dict(inputs=imgs), wrapper)
    norm, before = wrapper.grad_norm, weights(mae)
    assert not wrapper.bad_step and 0.01 < norm < 100  # of the gradient itself, 65536 times smaller than the scaled one
    wrapper.scaler._scale.fill_(2.0**40)
    mae.train_step(dict(inputs=imgs), wrapper)
    assert wrapper.bad_step and torch.equal(weights(mae), before) and wrapper.scaler.get_scale() == 2.0**39

    state = wrapper.state_dict()
    resumed = wrap(make_mae(), torch.optim.AdamW, lr=1e-3, dtype='float16')
    resumed.load_state_dict(state)
    assert resumed.scaler.state_dict() == wrapper.scaler.state_dict()
    wrap(make_mae(), torch.optim.AdamW, lr=1e-3, dtype='float32').load_state_dict(wrapper.state_dict())


def test_two_half_batches_accumulated_are_one_batch(make_mae):
    mae, imgs, noise = make_mae(), torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    start = {name: value.clone() for name, value in mae.state_dict().items()}
    before = weights(mae)
    mae.train_step(dict(inputs=imgs, noise=noise), wrap(mae))
    whole = weights(mae) - before

    mae.load_state_dict(start)
    mae.zero_grad()
    wrapper = wrap(mae, accumulative_counts=2)
    mae.train_step(dict(inputs=imgs[:2], noise=noise[:2]), wrapper)
    assert torch.equal(weights(mae), before)
    mae.train_step(dict(inputs=imgs[2:], noise=noise[2:]), wrapper)
    assert (weights(mae) - before - whole).norm() < 0.01 * whole.norm()


def test_gradients_wait_for_the_last_of_the_accumulated_batches(make_mae, imgs):
    """mmengine's own context is entered, too: a distributed model does not synchronise before it must."""
    mae, waits = make_mae(), []

    @contextmanager
    def no_sync():
        waits.append(True)
        yield

    mae.no_sync = no_sync
    wrapper = wrap(mae, accumulative_counts=2)
    wrapper.initialize_count_status(mae, 0, 4)
    for expected in (1, 1, 2, 2):
        mae.train_step(dict(inputs=imgs), wrapper)
        assert len(waits) == expected


def test_clipping_works(make_mae, imgs):
    mae = make_mae()
    before = weights(mae)
    mae.train_step(dict(inputs=imgs), wrap(mae, clip_grad=dict(max_norm=1e-3)))
    assert (weights(mae) - before).norm().item() == pytest.approx(1e-3, rel=0.01)
