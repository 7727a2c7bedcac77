"""mmengine's validation loop, in the training's precision, which tolerates unreadable images."""

from collections.abc import Sequence

import torch
from mmengine.runner import Runner
from mmengine.runner import ValLoop as MMEngineValLoop
from mmengine.runner.loops import _update_losses
from torch.utils.data import DataLoader

from mae_mm.engine.loops.batches import ReadableSamples, build_dataset, check_one_size
from mae_mm.engine.optim.optim_wrapper import precision_of
from mae_mm.registry import LOOPS


@LOOPS.register_module()
class ValLoop(MMEngineValLoop):
    """`ValLoop` that evaluates the next readable image instead of an unreadable one; without `replace` the run ends.

    The model runs in the precision of the training.
    """

    def __init__(self, runner: Runner, dataloader: dict | DataLoader, *args, replace: bool = True, **options) -> None:
        if isinstance(dataloader, dict):
            dataset = build_dataset(dataloader['dataset'])
            if not dataloader.get('batch_sampler'):
                check_one_size(dataset, 'val_dataloader')
            dataloader = {**dataloader, 'dataset': ReadableSamples(dataset, replace)}
        super().__init__(runner, dataloader, *args, **options)

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict | Sequence) -> None:
        """As in mmengine, whose `fp16` would be float16."""
        runner = self.runner
        runner.call_hook('before_val_iter', batch_idx=idx, data_batch=data_batch)
        with precision_of(runner.optim_wrapper, runner.model):
            outputs = runner.model.val_step(data_batch)
        outputs, self.val_loss = _update_losses(outputs, self.val_loss)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook('after_val_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
