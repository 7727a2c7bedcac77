"""Training steps on fake `cuda` tensors, without a GPU: right devices, and nothing asks for a value on the host.

Fake tensors have no values: `.item()`, `.tolist()`, `.any()` in an `if` raise. The backward pass needs a real device:
gradients are put there by hand, and the optimizer's step, the guard and the hooks' sums run on them.
"""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, BaseModule
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._pytree import tree_leaves

from mae_mm.benchmark.gpu_steps import batch, optim_wrapper, tiny_mae, variants
from mae_mm.engine.hooks import NonFiniteHook, RuntimeInfoHook
from mae_mm.models.mae import MAE

# Block masks are made on the CPU by a loop that ends early, mmpretrain's ResNet is built with `.item()`: fake tensors
# can do neither. On a GPU `gpu_check` does.
KINDS = [name for name in variants() if name not in ('block masks', 'convolutions')]


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


@pytest.mark.parametrize('name', KINDS)
def test_a_step_stays_on_the_gpu_and_asks_nothing(fake, name: str) -> None:
    model = variants()[name]('cuda')
    if name == 'PCA target':
        model.target_generator._is_fitted = True  # read in the first step of a run
    wrapper = optim_wrapper(model, clip_grad=dict(max_norm=1.0))
    wrapper.reports_norm = False  # as `RuntimeInfoHook` sets it
    losses = step(model, wrapper)
    assert losses['loss'].dtype == torch.float32 and losses['loss'].shape == ()
    state = tree_leaves(list(wrapper.optimizer.state.values()))
    numbers = [losses['loss'], wrapper.bad_step, wrapper.grad_norm, *state]
    assert {number.device.type for number in numbers} == {'cuda'} and len(numbers) > 20


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


def test_grad_norms_read_in_each_step_are_noticed(fake) -> None:
    model = tiny_mae('cuda')
    with pytest.raises(DataDependentOutputException):
        step(model, optim_wrapper(model, clip_grad=dict(max_norm=1.0)))
