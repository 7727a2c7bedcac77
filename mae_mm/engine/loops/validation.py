"""mmengine's validation loop, which tolerates unreadable images."""

from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner import ValLoop as MMEngineValLoop
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import ReadableSamples, build_dataset
from mae_mm.registry import LOOPS


@LOOPS.register_module()
class ValLoop(MMEngineValLoop):
    """`ValLoop` that evaluates the next readable image instead of an unreadable one; `BadDataHook` counts them.

    The metric then counts one image twice, which is exact enough for means over images.

    Args:
        replace: False for metrics that look up each image's annotations, as in detection: an unreadable image ends
            the run with a message that names it.
    """

    def __init__(
            self, runner: Runner, dataloader: dict | DataLoader, evaluator: dict | list | Evaluator, fp16: bool = False,
            replace: bool = True) -> None:
        if isinstance(dataloader, dict):
            dataloader = {**dataloader, 'dataset': ReadableSamples(build_dataset(dataloader['dataset']), replace)}
        super().__init__(runner, dataloader, evaluator, fp16)
