"""mmengine's validation loop, which tolerates unreadable images."""

from mmengine.runner import Runner
from mmengine.runner import ValLoop as MMEngineValLoop
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import ReadableSamples, build_dataset
from mae_mm.registry import LOOPS


@LOOPS.register_module()
class ValLoop(MMEngineValLoop):
    """`ValLoop` that evaluates the next readable image instead of an unreadable one; without `replace` the run ends."""

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, *args, replace: bool = True, **options) -> None:
        if isinstance(dataloader, dict):
            dataloader = {**dataloader, 'dataset': ReadableSamples(build_dataset(dataloader['dataset']), replace)}
        super().__init__(runner, dataloader, *args, **options)
