"""LARS against the published rule, worked out in NumPy."""

import numpy as np
import pytest
import torch
from mmengine.registry import OPTIMIZERS
from torch import nn

from mae_mm.engine.optim.lars import LARS


def numpy_lars(weight, bias, grads, lrs, momentum=0.9, decay=0.0, trust=0.001):
    """Two parameters through any number of steps: arXiv:1708.03888, algorithm 1, with lr outside the buffer."""
    m_weight, m_bias = np.zeros_like(weight), np.zeros_like(bias)
    for (g_weight, g_bias), lr in zip(grads, lrs, strict=True):
        g_weight = g_weight + decay * weight
        g_weight = g_weight * trust * np.linalg.norm(weight) / np.linalg.norm(g_weight)
        m_weight = momentum * m_weight + g_weight
        m_bias = momentum * m_bias + g_bias
        weight, bias = weight - lr * m_weight, bias - lr * m_bias
    return weight, bias


def take_steps(weight, bias, grads, lrs, **options):
    params = [nn.Parameter(torch.from_numpy(value.copy())) for value in (weight, bias)]
    optimizer = LARS(params, lr=lrs[0], **options)
    for step_grads, lr in zip(grads, lrs, strict=True):
        optimizer.param_groups[0]['lr'] = lr
        for param, grad in zip(params, step_grads, strict=True):
            param.grad = torch.from_numpy(grad)
        optimizer.step()
    return [param.detach().numpy() for param in params]


def test_one_step_by_hand():
    """|w| = 5, |g| = 10: the update is lr * 0.001 * 5 / 10 * g; the bias takes lr * g."""
    weight, bias = take_steps(
        np.array([[3.0, 4.0]]), np.array([1.0]), [(np.array([[6.0, 8.0]]), np.array([2.0]))], [0.1])
    np.testing.assert_allclose(weight, [[3 - 0.1 * 0.0005 * 6, 4 - 0.1 * 0.0005 * 8]], rtol=1e-12)
    np.testing.assert_allclose(bias, [0.8], rtol=1e-12)


@pytest.mark.parametrize('decay', [0.0, 0.05])
def test_steps_of_changing_lr_follow_the_rule(decay):
    """The lr stands outside the momentum buffer: mmpretrain's optimizer fails this test."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    grads = [(rng.normal(size=(4, 6)), rng.normal(size=4)) for _ in range(4)]
    lrs = [1e-4, 6.4, 3.2, 0.0]
    expected = numpy_lars(weight, bias, grads, lrs, decay=decay)
    for value, reference in zip(take_steps(weight, bias, grads, lrs, weight_decay=decay), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-12)


def test_zero_weights_and_zero_gradients_take_the_plain_step():
    grads = [(np.full((2, 2), 0.5), np.zeros(2)), (np.zeros((2, 2)), np.zeros(2))]
    weight, bias = take_steps(np.zeros((2, 2)), np.ones(2), grads, [1.0, 1.0], momentum=0.0)
    np.testing.assert_array_equal(weight, np.full((2, 2), -0.5))
    np.testing.assert_array_equal(bias, np.ones(2))


def test_state_resumes():
    """A run that is saved and loaded half-way ends where an uninterrupted one does."""
    def train(optimizer, param, steps):
        for i in steps:
            param.grad = torch.full_like(param, 1.0 + i)
            optimizer.step()

    whole = nn.Parameter(torch.ones(2, 3))
    train(LARS([whole], lr=0.5), whole, range(4))
    first = nn.Parameter(torch.ones(2, 3))
    before = LARS([first], lr=0.5)
    train(before, first, range(2))
    second = nn.Parameter(first.detach().clone())
    after = LARS([second], lr=0.1)
    after.load_state_dict(before.state_dict())
    train(after, second, range(2, 4))
    assert torch.equal(whole, second)


def test_it_is_registered():
    optimizer = OPTIMIZERS.build(dict(type='mae_mm.LARS', params=[nn.Parameter(torch.ones(2, 2))], lr=6.4))
    assert type(optimizer) is LARS and optimizer.defaults['momentum'] == 0.9
