"""What hooks share that look at a model after its validation."""

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mae_mm.engine.loops.seeding import keep_random_state


class AfterValidation(Hook):
    """Calls `look(runner, step)` after every `interval` validations, and always after the last one of a training.

    The model is in evaluation mode, with averaged weights if there are (EMAHook). `step` is the iteration or the epoch
    that training has reached, 0 without training. Training goes on as if the hook had drawn no random numbers.
    """

    priority = 'ABOVE_NORMAL'  # while averaged weights (EMAHook, NORMAL) are still in place

    def __init__(self, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f'interval must be 1 or more, got {interval}')
        self.interval, self.validations = interval, 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        training = isinstance(runner._train_loop, BaseLoop)  # `runner.iter` would build the loop
        self.validations += 1
        if self.validations % self.interval and training and runner.iter < runner.max_iters:
            return
        by_iter = isinstance(runner._train_loop, IterBasedTrainLoop)
        with keep_random_state():
            self.look(runner, 0 if not training else runner.iter if by_iter else runner.epoch)

    def look(self, runner: Runner, step: int) -> None:
        """Called by all processes."""
        raise NotImplementedError
