"""mmengine's validation, which one unreadable image does not end."""

from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.runner import ValLoop as MMEngineValLoop
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import ReadableSamples, build_dataset
from mae_mm.registry import LOOPS


@LOOPS.register_module()
class ValLoop(MMEngineValLoop):
    """`ValLoop` that evaluates the next readable image in the place of an unreadable one; `BadDataHook` counts them.

    The metric is then one over as many images, of which one counts twice: exact enough for means over images.

    Args:
        replace: whether to do so. False where each image has annotations of its own to be found, as in detection: an
            unreadable one ends the run with a message that names it.
    """

    def __init__(
            self, runner: Runner, dataloader: dict | DataLoader, evaluator: dict | list | Evaluator, fp16: bool = False,
            replace: bool = True) -> None:
        if isinstance(dataloader, dict):
            dataloader = {**dataloader, 'dataset': ReadableSamples(build_dataset(dataloader['dataset']), replace)}
        super().__init__(runner, dataloader, evaluator, fp16)
