"""Hooks that report on a training, and hooks that keep a run from being lost."""

from mae_mm.engine.hooks.bad_data import BadDataHook
from mae_mm.engine.hooks.checkpoint import CheckpointHook
from mae_mm.engine.hooks.compiling import CompileHook
from mae_mm.engine.hooks.fingerprints import FingerprintHook
from mae_mm.engine.hooks.nonfinite import NonFiniteHook
from mae_mm.engine.hooks.preemption import PreemptionHook
from mae_mm.engine.hooks.scalars import IterTimerHook, RuntimeInfoHook
from mae_mm.engine.hooks.summary import SummaryHook

__all__ = [
    'BadDataHook', 'CheckpointHook', 'CompileHook', 'FingerprintHook', 'IterTimerHook', 'NonFiniteHook',
    'PreemptionHook', 'RuntimeInfoHook', 'SummaryHook',
]
