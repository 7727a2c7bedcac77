"""Which precision a device gets; instructions of a CPU are imitated as oneDNN and torch let one do it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mae_mm.models import precision
from mae_mm.models.precision import native_dtype

CODE = 'from mae_mm.models.precision import native_dtype; print(native_dtype("cpu")[0])'
FLAGS = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''


@pytest.fixture
def x86(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An AVX-512 CPU without bfloat16, whatever this one is."""
    monkeypatch.delenv('ONEDNN_MAX_CPU_ISA', raising=False)
    monkeypatch.setattr(precision.platform, 'machine', lambda: 'x86_64')
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: False)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: False)
    return monkeypatch


@pytest.mark.parametrize('limit', ['', 'ONEDNN_MAX_CPU_ISA=AVX512_CORE', 'ATEN_CPU_CAPABILITY=avx2'])
def test_this_cpu(limit: str) -> None:
    """bfloat16 exactly where Linux lists the instructions, and the environment lets libraries use them."""
    env = {key: value for key, value in os.environ.items() if key not in ('ONEDNN_MAX_CPU_ISA', 'ATEN_CPU_CAPABILITY')}
    env |= dict([limit.split('=')] if limit else [])
    out = subprocess.run([sys.executable, '-c', CODE], env=env, capture_output=True, text=True, check=True)
    native = not limit and any(flag in FLAGS.split() for flag in ('avx512_bf16', 'amx_bf16', 'bf16'))
    assert out.stdout.strip() == ('torch.bfloat16' if native else 'torch.float32')


@pytest.mark.parametrize('instructions', ['_is_avx512_bf16_supported', '_is_amx_tile_supported'])
def test_instructions_for_bfloat16_are_used_if_the_environment_allows(x86, instructions: str) -> None:
    assert native_dtype('cpu') == (torch.float32, 'this CPU would emulate bfloat16, which is slower')
    x86.setattr(torch.cpu, instructions, lambda: True)
    assert native_dtype('cpu')[0] == torch.bfloat16
    x86.setenv('ONEDNN_MAX_CPU_ISA', 'avx512_core_vnni')
    assert native_dtype('cpu')[0] == torch.float32
    x86.setenv('ONEDNN_MAX_CPU_ISA', 'AVX512_CORE_BF16')
    assert native_dtype('cpu')[0] == torch.bfloat16
    x86.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    assert native_dtype('cpu')[0] == torch.float32


@pytest.mark.parametrize('has_it', [True, False])
def test_arm_is_what_onednn_says(monkeypatch: pytest.MonkeyPatch, has_it: bool) -> None:
    monkeypatch.setattr(precision.platform, 'machine', lambda: 'aarch64')
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: has_it)
    assert native_dtype('cpu')[0] == (torch.bfloat16 if has_it else torch.float32)


@pytest.mark.parametrize(('capability', 'dtype'), [
    ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_gpus_before_ampere_get_float16(monkeypatch: pytest.MonkeyPatch, capability: tuple, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    assert native_dtype('cuda')[0] == dtype
