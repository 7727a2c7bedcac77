"""k-NN accuracy during pre-training."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mae_mm.evaluation.knn import extract_features, feature_loader, knn_accuracy
from mae_mm.registry import HOOKS


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify held-out images by their nearest training images, before training and every few epochs.

    The log and the visualiser (TensorBoard, W&B, …) get `knn/top1`, in percent, of the mean patch token. It often shows
    earlier than the loss what an encoder learns, and when it stops to. Nothing is trained, and pre-training does not
    see the images.

    Args:
        train_dataset, val_dataset: labelled data sets whose pipeline ends with `PackInputs`; a few thousand images are
            enough.
        interval: epochs from one evaluation to the next; the last epoch is always evaluated.
        k: neighbours.
        batch_size: images at a time, of each process.
        num_workers: of each loader.
    """

    def __init__(
        self, train_dataset: dict, val_dataset: dict, interval: int = 20, k: int = 20, batch_size: int = 256,
        num_workers: int = 2,
    ) -> None:
        self.datasets, self.interval, self.k = (train_dataset, val_dataset), interval, k
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner: Runner) -> None:
        """Build the loaders, and evaluate the untrained encoder to compare with."""
        self.loaders = [feature_loader(dataset, self.batch_size, self.num_workers) for dataset in self.datasets]
        if runner.epoch == 0:
            self.evaluate(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Evaluate every `interval` epochs and after the last."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self.evaluate(runner, runner.epoch + 1)

    def evaluate(self, runner: Runner, epoch: int) -> None:
        """Classify the held-out images and log the accuracy."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        with torch.random.fork_rng(devices=[]):  # starting a loader draws a number, which must not change training
            train, val = (extract_features(model.backbone, model.data_preprocessor, loader) for loader in self.loaders)
        model.train()
        top1 = knn_accuracy(train, val, (self.k, ))[f'mean_patch/k{self.k}']
        runner.logger.info(f'epoch {epoch}: knn/top1 {top1:.2f} (k = {self.k}, {len(val.labels)} images)')
        runner.visualizer.add_scalars({'knn/top1': top1}, step=epoch)
