"""Training that can be stopped anywhere: seeds, batches, loops, and the ways in which a run may end."""

from .batches import start_worker
from .loops import EpochTrainLoop, IterTrainLoop
from .stopping import EXIT_PREEMPTED, EXIT_STOPPED, RollBack, TrainingStopped, UnreadableData
from .validation import ValLoop

__all__ = [
    'EXIT_PREEMPTED', 'EXIT_STOPPED', 'EpochTrainLoop', 'IterTrainLoop', 'RollBack', 'TrainingStopped',
    'UnreadableData', 'ValLoop', 'start_worker',
]
