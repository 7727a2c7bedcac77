"""What pre-training shows of itself: pictures while it runs, a summary when it ends."""

from .knn import KNNHook
from .panel import PanelHook
from .summary import SummaryHook

__all__ = ['KNNHook', 'PanelHook', 'SummaryHook']
