"""What pre-training shows of itself, and what keeps a run from being lost."""

from .bad_data import BadDataHook
from .checkpoint import CheckpointHook
from .compiling import CompileHook
from .knn import KNNHook
from .nonfinite import NonFiniteHook
from .panel import PanelHook
from .preemption import PreemptionHook
from .scalars import IterTimerHook, RuntimeInfoHook
from .summary import SummaryHook

__all__ = [
    'BadDataHook', 'CheckpointHook', 'CompileHook', 'IterTimerHook', 'KNNHook', 'NonFiniteHook', 'PanelHook',
    'PreemptionHook', 'RuntimeInfoHook', 'SummaryHook',
]
