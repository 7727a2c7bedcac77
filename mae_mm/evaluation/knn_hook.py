"""k-NN accuracy while pre-training runs."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mae_mm.evaluation.knn import extract_features, feature_loader, knn_accuracy
from mae_mm.registry import HOOKS


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify held-out images by their nearest training images, before training and every few epochs.

    The log and the visualiser (TensorBoard, W&B, …) get `knn/top1`, in percent. It shows that an encoder learns before
    the loss says so, and where it stops to. Nothing is trained, and the images take no part in pre-training.

    Args:
        train_dataset, val_dataset: labelled data sets whose pipeline ends with `PackInputs`; a few thousand images do.
        interval: epochs from one evaluation to the next; the last epoch is always evaluated.
        feature: 'mean_patch' or 'cls_token'.
        k: neighbours.
        temperature: of the vote.
        batch_size: images at a time, of each process.
        num_workers: of each loader.
    """

    def __init__(
        self, train_dataset: dict, val_dataset: dict, interval: int = 20, feature: str = 'mean_patch', k: int = 20,
        temperature: float = 0.07, batch_size: int = 256, num_workers: int = 2,
    ) -> None:
        if feature not in ('mean_patch', 'cls_token'):
            raise ValueError(f"feature={feature!r} is neither 'mean_patch' nor 'cls_token'")
        self.datasets = train_dataset, val_dataset
        self.interval, self.feature, self.k, self.temperature = interval, feature, k, temperature
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner: Runner) -> None:
        """Build the loaders, and give the untrained encoder's accuracy to compare with."""
        self.loaders = [feature_loader(dataset, self.batch_size, self.num_workers) for dataset in self.datasets]
        if runner.epoch == 0:
            self.evaluate(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Evaluate, if it is time."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self.evaluate(runner, runner.epoch + 1)

    def evaluate(self, runner: Runner, epoch: int) -> float:
        """Classify the held-out images; log and return the accuracy in percent."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        with torch.random.fork_rng(devices=[]):  # starting a loader draws a number: training goes on as if it had not
            train, val = (extract_features(model.backbone, model.data_preprocessor, loader) for loader in self.loaders)
        model.train()
        top1 = knn_accuracy(train, val, (self.k, ), self.temperature)[f'{self.feature}/k{self.k}']
        runner.logger.info(
            f'epoch {epoch}: knn/top1 {top1:.2f} ({self.feature}, k = {self.k}, {len(val.labels)} images)')
        runner.visualizer.add_scalars({'knn/top1': top1}, step=epoch)
        return top1
