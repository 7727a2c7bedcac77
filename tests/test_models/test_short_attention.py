"""The Triton kernels against torch's attention, in Triton's interpreter: no GPU is needed."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from mae_mm.models.attention import Block, fits_on_chip

CODE = """
import torch
from torch.nn.functional import scaled_dot_product_attention
from mae_mm.models.short_attention import attend_short

torch.manual_seed(0)
for n, tokens, heads, width in ((2, 50, 2, 64), (1, 197, 2, 32), (1, 65, 1, 16), (1, 1, 1, 16)):
    qkv = torch.randn(n, tokens, 3, heads, width).half().requires_grad_()
    grad = torch.randn(n, tokens, heads, width).half()
    out = attend_short(qkv, 0.3)
    out.backward(grad)
    exact = qkv.detach().double().requires_grad_()
    q, k, v = exact.permute(2, 0, 3, 1, 4).unbind(0)
    wanted = scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2)
    wanted.backward(grad.double())
    for ours, theirs in ((out, wanted), (qkv.grad, exact.grad)):
        error = ((ours.double() - theirs).norm() / theirs.norm()).item()
        assert error < 1e-3, (tokens, width, error)
torch.library.opcheck(torch.ops.mae_mm.attend_short.default, (torch.randn(1, 5, 3, 2, 16).half().requires_grad_(), 0.3))
"""


@pytest.mark.integration
@pytest.mark.skipif(find_spec('triton') is None, reason='no Triton here')
def test_values_and_gradients_are_those_of_attention() -> None:
    import os

    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE], text=True, capture_output=True,
                          env={**os.environ, 'TRITON_INTERPRET': '1'})
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(('tokens', 'width', 'device', 'dtype', 'wanted'), [
    (197, 32, 'cuda', torch.bfloat16, True), (50, 64, 'cuda', torch.bfloat16, True),
    (257, 32, 'cuda', torch.bfloat16, False), (197, 64, 'cuda', torch.bfloat16, False),
    (65, 80, 'cuda', torch.bfloat16, False), (50, 64, 'cuda', torch.float32, False),
    (50, 64, 'cpu', torch.bfloat16, False)])
def test_it_is_used_where_it_was_measured_to_be_faster(tokens, width, device, dtype, wanted) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert fits_on_chip(torch.empty(2, tokens, 3, 4, width, device=device, dtype=dtype)) is wanted


@pytest.mark.skipif(find_spec('triton') is None, reason='no Triton here')
@pytest.mark.parametrize(('capability', 'wanted'), [((9, 0), True), ((8, 0), False), (None, False)])
def test_other_gpus_keep_the_kernels_of_torch(monkeypatch, capability: tuple[int, int] | None, wanted: bool) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    assert Block(32, 2).attn.has_short_kernel is wanted
