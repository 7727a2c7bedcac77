"""Meters of the encoder on held-out images, during pre-training."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mae_mm.engine.hooks.validation import AfterValidation
from mae_mm.engine.optim.optim_wrapper import precision_of
from mae_mm.evaluation.knn import extract_features, feature_loader, knn_accuracy
from mae_mm.evaluation.meters import alpha_req, attention_distance, rankme
from mae_mm.models.attention import Attention
from mae_mm.models.patches import grid_of
from mae_mm.registry import HOOKS

OF_FEATURES = dict(rankme=rankme, alpha_req=alpha_req)
METERS = (*OF_FEATURES, 'attention_distance')
# Those whose rank correlation with the accuracy of fine-tuning was beyond chance: docs/meters.md.
DEFAULT_METERS = ('attention_distance', 'rankme')


class Seen(NamedTuple):
    """What an encoder makes of M images."""

    features: Tensor  # (M, D) float32: mean of the patch tokens after the final norm, or of the last feature map
    distances: Tensor  # (blocks,) float32: mean attention distance in patches, over heads; empty if not asked for


@torch.no_grad()
def see(
    model: nn.Module, dataset: Dataset, seconds: float = math.inf, batch_size: int = 32, attention: bool = True,
) -> Seen:
    """Encode whole images with the encoder of a masked autoencoder, in a fixed random order, until the time is up.

    Processes share the images and all get the same result. They stop together, after the same number of batches, as
    sharded weights need it. At least one batch is encoded.

    Args:
        model: in evaluation mode, bare or in mmengine's distributed wrappers.
        dataset: its samples have `inputs`, (C, H, W) of one size.
    """
    rank, world = get_rank(), get_world_size()
    order = np.random.default_rng(0).permutation(len(dataset))
    order = order[:len(order) // world * world][rank::world].tolist()
    core = model.module if is_model_wrapper(model) else model
    device, begun = next(model.parameters()).device, time.monotonic()
    features, distances = [], defaultdict(list)
    for start in range(0, len(order), batch_size):
        inputs = torch.stack([dataset[i]['inputs'] for i in order[start:start + batch_size]])
        inputs = core.data_preprocessor(dict(inputs=inputs), False)['inputs']
        with watch_attention(core.backbone, inputs, distances if attention else None):
            last = model(inputs, mode='tensor')[-1].float()
        features.append(last[:, 1:].mean(1) if last.ndim == 3 else last.flatten(2).mean(2))
        late = torch.tensor(float(time.monotonic() - begun > seconds), device=device)
        all_reduce(late, 'max')
        if late:
            break
    if not features:
        raise ValueError(f'{len(dataset)} held-out images for {world} processes: each needs one')
    features = torch.cat(features)
    means = torch.stack([sum(sums) / len(features) for sums in distances.values()]) if distances else torch.zeros(0)
    if distances:
        all_reduce(means, 'mean')
    return Seen(torch.cat(all_gather(features)).cpu(), means.cpu())


@contextmanager
def watch_attention(backbone: nn.Module, imgs: Tensor, distances: dict[int, list[Tensor]] | None) -> Iterator[None]:
    """Add to `distances`, by block, the sum over (N, C, H, W) images of the attention distance, a mean over heads."""
    def measure(block: int, module: Attention, args: tuple[Tensor], _: Tensor) -> None:
        grid = grid_of(imgs.shape[2:], backbone.patch_size)
        distances[block].append(attention_distance(module.weights(args[0]), grid).mean() * len(imgs))

    watched = [] if distances is None else [part for part in backbone.modules() if isinstance(part, Attention)]
    handles = [part.register_forward_hook(partial(measure, block)) for block, part in enumerate(watched)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@HOOKS.register_module()
class QualityHook(AfterValidation):
    """Meters of the encoder on held-out images after each validation; what they are worth: docs/meters.md.

    The log and the visualizer (TensorBoard, W&B, …) get `quality/attention_distance`, in patches, a mean of the blocks
    (`quality/attention_distance/block_0`, …), `quality/rankme` and `quality/alpha_req` if asked for, and
    `quality/images`, the number of images that were used. The encoder runs in the precision of the training, on whole
    images.

    Args:
        seconds: takes no more images of the validation set after this time, so that it ends within a batch of it.
        meters: which of `METERS`.
        interval: after every `interval` validations, and always after the last one of a training.
        batch_size: images at a time, in each process.
        probe: `train_dataset` and `val_dataset`, labelled, whose pipelines end with `PackInputs`: adds `quality/knn`,
            the top-1 of 20 nearest neighbours, in percent. It takes its own time.
    """

    def __init__(
        self, seconds: float = 10.0, meters: Sequence[Literal[METERS]] = DEFAULT_METERS, interval: int = 1,
        batch_size: int = 32, probe: dict | None = None,
    ) -> None:
        super().__init__(interval)
        if seconds <= 0 or batch_size < 1:
            raise ValueError(f'seconds and batch_size must be positive, got {seconds} and {batch_size}')
        if unknown := set(meters) - set(METERS):
            raise ValueError(f'meters={sorted(unknown)} must be of {", ".join(METERS)}')
        if probe is not None and set(probe) != {'train_dataset', 'val_dataset'}:
            raise ValueError(f'probe has {sorted(probe)}; it needs train_dataset and val_dataset')
        self.seconds, self.meters, self.batch_size, self.probe = seconds, meters, batch_size, probe

    def look(self, runner: Runner, step: int) -> None:
        """All processes encode; the first one computes and writes."""
        begun = time.monotonic()
        with precision_of(runner.optim_wrapper, runner.model):
            seen = see(runner.model, runner.val_dataloader.dataset, self.seconds, self.batch_size,
                       'attention_distance' in self.meters)
            scores = self.classify(runner)
        if not is_main_process():
            return
        values = dict(images=len(seen.features))
        for name in (name for name in self.meters if name in OF_FEATURES):
            try:
                values[name] = OF_FEATURES[name](seen.features)
            except ValueError as error:
                runner.logger.warning(f'QualityHook: no {name}: {error}')
        if len(seen.distances):
            values['attention_distance'] = seen.distances.mean().item()
        values.update({f'attention_distance/block_{i}': value for i, value in enumerate(seen.distances.tolist())})
        values = {f'quality/{name}': value for name, value in {**values, **scores}.items()}
        text = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
        runner.logger.info(f'{text}  ({time.monotonic() - begun:.1f} s)')
        runner.visualizer.add_scalars(values, step=step)

    def classify(self, runner: Runner) -> dict[str, float]:
        """Accuracy of the probe in percent."""
        if self.probe is None:
            return {}
        preprocessor = (runner.model.module if is_model_wrapper(runner.model) else runner.model).data_preprocessor
        encode = partial(runner.model, mode='tensor')
        train, val = (extract_features(encode, preprocessor, feature_loader(self.probe[side], self.batch_size, 0))
                      for side in ('train_dataset', 'val_dataset'))
        k = min(20, len(train.labels))
        return dict(knn=knn_accuracy(train, val, (k, ))[f'mean_patch/k{k}'])
