"""What pre-training shows of itself, and what keeps a run from being lost."""

from .bad_data import BadDataHook
from .checkpoint import CheckpointHook
from .knn import KNNHook
from .nonfinite import NonFiniteHook
from .panel import PanelHook
from .preemption import PreemptionHook
from .summary import SummaryHook

__all__ = ['BadDataHook', 'CheckpointHook', 'KNNHook', 'NonFiniteHook', 'PanelHook', 'PreemptionHook', 'SummaryHook']
