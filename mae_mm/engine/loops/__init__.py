"""Training that can be stopped anywhere: seeds, batches, loops, and the ways in which a run may end."""

from mae_mm.engine.loops.batches import start_worker
from mae_mm.engine.loops.training import EpochTrainLoop, IterTrainLoop
from mae_mm.engine.loops.validation import ValLoop

__all__ = ['EpochTrainLoop', 'IterTrainLoop', 'ValLoop', 'start_worker']
