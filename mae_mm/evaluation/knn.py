"""k-nearest-neighbour classification with frozen features, of a checkpoint or during pre-training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dist import all_gather, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.engine.optim.optim_wrapper import precision_of
from mae_mm.registry import HOOKS, MODELS

TRAIN_CHUNK, QUERY_CHUNK = 16384, 1024  # similarities in memory at a time: 64 MB


class Features(NamedTuple):
    mean_patch: Tensor  # (N, D) float32: mean of the normalised patch tokens
    cls_token: Tensor  # (N, D) float32: normalised class token
    labels: Tensor  # (N,) int64


def nearest(train_feats: Tensor, feats: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k of M training images, (M, D), that are most similar to each image, (N, D), in chunks.

    Returns (N, k) cosine similarities, in descending order, and (N, k) int64 positions in `train_feats`.
    """
    if not 1 <= k <= len(train_feats):
        raise ValueError(f'k={k} neighbours of {len(train_feats)} training images: choose k in 1 … {len(train_feats)}')
    queries = F.normalize(feats.float(), dim=1)
    similarities = queries.new_full((len(feats), k), -torch.inf)
    neighbours = torch.zeros(len(feats), k, dtype=torch.int64, device=feats.device)
    for start in range(0, len(train_feats), TRAIN_CHUNK):
        chunk = F.normalize(train_feats[start:start + TRAIN_CHUNK].to(feats.device).float(), dim=1)
        for rows in torch.arange(len(feats), device=feats.device).split(QUERY_CHUNK):
            best, position = (queries[rows] @ chunk.T).topk(min(k, len(chunk)), dim=1)
            similarities[rows], order = torch.cat([similarities[rows], best], dim=1).topk(k, dim=1)
            neighbours[rows] = torch.cat([neighbours[rows], position + start], dim=1).gather(1, order)
    return similarities, neighbours


def vote(similarities: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Vote of neighbours with (N, k) similarities s and labels, each with weight exp(s / temperature): (N,) int64.

    Wu et al., arXiv:1805.01978, section 3.4; DINO, arXiv:2104.14294, uses k = 10 or 20.
    """
    weights = torch.exp((similarities - 1) / temperature)  # at most 1, whatever the temperature
    return weights.new_zeros(len(labels), num_classes).scatter_add_(1, labels, weights).argmax(1)


def knn_accuracy(
    train: Features, test: Features, ks: Sequence[int] = (10, 20), temperature: float = 0.07,
) -> dict[str, float]:
    """Top-1 accuracy on `test`, in percent, for both features and each k: `mean_patch/k10`, …, `cls_token/k20`."""
    labels, accuracy = train.labels.to(test.labels.device), {}
    for name in ('mean_patch', 'cls_token'):
        similarities, neighbours = nearest(getattr(train, name), getattr(test, name), max(ks))
        for k in ks:
            pred = vote(similarities[:, :k], labels[neighbours[:, :k]], temperature, int(labels.max()) + 1)
            accuracy[f'{name}/k{k}'] = 100 * (pred == test.labels).float().mean().item()
    return accuracy


@torch.no_grad()
def extract_features(backbone: nn.Module, preprocessor: nn.Module, loader: DataLoader, name: str = '') -> Features:
    """Encode a labelled data set with a `mae_mm.ViT` of out_type 'raw'; processes share the work and get the whole."""
    batches = []
    for batch in tqdm(loader, desc=name, unit='batch', disable=None if name and is_main_process() else True):
        batch = preprocessor(batch, False)
        tokens = backbone(batch['inputs'])[-1].float()
        labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
        batches.append((tokens[:, 1:].mean(1), tokens[:, 0], labels.to(tokens.device)))
    columns = [torch.cat(column) for column in zip(*batches, strict=True)]
    if get_world_size() > 1:  # the sampler deals images out in turn, and repeats the first ones to fill the last round
        columns = [torch.stack(all_gather(column), 1).flatten(0, 1)[:len(loader.dataset)] for column in columns]
    return Features(*columns)


def feature_loader(dataset: dict, batch_size: int = 256, num_workers: int = 2) -> DataLoader:
    return Runner.build_dataloader(dict(
        dataset=dataset, batch_size=batch_size, num_workers=num_workers, drop_last=False,
        sampler=dict(type='DefaultSampler', shuffle=False)))


def evaluate_encoder(
    cfg: Config, checkpoint: str | None = None, ks: Sequence[int] = (10, 20), temperature: float = 0.07,
    batch_size: int = 256, device: str | None = None,
) -> dict[str, float]:
    """`knn_accuracy` of the validation images of a classification config, by their nearest training images.

    Both data sets go through the validation pipeline; of the model only the shape of the encoder is used. Without a
    checkpoint the encoder stays random (`cfg.randomness.seed`), which is the number to compare with.
    """
    if 'num_classes' not in (cfg.model.get('head') or {}):
        raise ValueError(
            f'{cfg.filename} is not a classification config (it has no model.head.num_classes), so its data have no '
            'labels; use e.g. configs/classification/vit_b16_in1k.py')
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    backbone = MODELS.build({**cfg.model.backbone, **dict(out_type='raw', tuned_blocks=None, init_cfg=None)})
    backbone.init_weights()
    if checkpoint:
        load_pretrained(backbone, checkpoint)
    settings = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    preprocessor = MODELS.build({'type': 'ClsDataPreprocessor', **settings}).to(device)
    backbone.to(device).eval()
    val, workers = cfg.val_dataloader.dataset, cfg.val_dataloader.num_workers
    train = {**cfg.train_dataloader.dataset, 'pipeline': val.pipeline, 'test_mode': True}
    features = [
        extract_features(backbone, preprocessor, feature_loader(dataset, batch_size, workers), name)
        for name, dataset in (('training images', train), ('validation images', val))]
    return knn_accuracy(*features, ks, temperature)


@HOOKS.register_module()
class KNNHook(Hook):
    """Classify held-out images by their nearest training images, before training and every few epochs.

    The log and the visualiser (TensorBoard, W&B, …) get `knn/top1`, in percent, of the mean patch token, every
    `interval` epochs and after the last. The encoder runs in the precision of the training. The pipelines of both
    labelled data sets end with `PackInputs`.
    """

    def __init__(
        self, train_dataset: dict, val_dataset: dict, interval: int = 20, k: int = 20, batch_size: int = 256,
        num_workers: int = 2,
    ) -> None:
        self.datasets, self.interval, self.k = (train_dataset, val_dataset), interval, k
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner: Runner) -> None:
        self.loaders = [feature_loader(dataset, self.batch_size, self.num_workers) for dataset in self.datasets]
        if runner.epoch == 0:
            self.evaluate(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self.evaluate(runner, runner.epoch + 1)

    def evaluate(self, runner: Runner, epoch: int) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        # Starting a loader draws a number, which must not change training.
        with torch.random.fork_rng(devices=[]), precision_of(runner.optim_wrapper, model):
            train, val = (extract_features(model.backbone, model.data_preprocessor, loader) for loader in self.loaders)
        model.train()
        top1 = knn_accuracy(train, val, (self.k, ))[f'mean_patch/k{self.k}']
        runner.logger.info(f'epoch {epoch}: knn/top1 {top1:.2f} (k = {self.k}, {len(val.labels)} images)')
        runner.visualizer.add_scalars({'knn/top1': top1}, step=epoch)
