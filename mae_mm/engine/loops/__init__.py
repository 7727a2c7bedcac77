"""Training that can be stopped and resumed at any iteration: seeds, batches and loops."""

from mae_mm.engine.loops.batches import start_worker
from mae_mm.engine.loops.training import EpochTrainLoop, IterTrainLoop
from mae_mm.engine.loops.validation import ValLoop

__all__ = ['EpochTrainLoop', 'IterTrainLoop', 'ValLoop', 'start_worker']
