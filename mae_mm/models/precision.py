"""The one place that decides in which precision a device computes."""

import os
import platform

import torch

# What oneDNN may use, if the environment limits it: these have bfloat16.
ISAS_WITH_BFLOAT16 = ('AVX512_CORE_BF16', 'AVX512_CORE_FP16', 'AVX10', 'AMX', 'DEFAULT', 'ALL')


def native_dtype(device_type: str) -> tuple[torch.dtype, str]:
    """The dtype of mixed precision that a device multiplies fast, and why.

    CPUs that emulate bfloat16 are three times slower with it than in float32 (docs/performance.md).
    """
    if device_type == 'cpu':
        if _cpu_has_bfloat16():
            return torch.bfloat16, 'this CPU multiplies bfloat16'
        return torch.float32, 'this CPU would emulate bfloat16, which is slower'
    if device_type == 'cuda' and torch.version.cuda and torch.cuda.get_device_capability()[0] < 8:
        return torch.float16, 'this GPU, older than Ampere, multiplies float16 but not bfloat16; the loss is scaled'
    return torch.bfloat16, 'this GPU multiplies bfloat16'


def _cpu_has_bfloat16() -> bool:
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        # On x86 this is true of AVX-512 without bfloat16, too.
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not torch.backends.cpu.get_cpu_capability().startswith('AVX512'):
        return False
    limit = (os.environ.get('ONEDNN_MAX_CPU_ISA') or os.environ.get('DNNL_MAX_CPU_ISA') or 'ALL').upper()
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return instructions and any(name in limit for name in ISAS_WITH_BFLOAT16)
