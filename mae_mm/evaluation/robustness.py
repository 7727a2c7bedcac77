"""Fine-tuned ImageNet models on ImageNet-C, -A, -R and -Sketch."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mae_mm.datasets.find import find_images
from mae_mm.datasets.listed_images import ListedImages
from mae_mm.registry import DATASETS, METRICS

# Errors of AlexNet, in percent, mean over five severities (Hendrycks and Dietterich, arXiv:1903.12261, their code).
ALEXNET_ERRORS = dict(
    gaussian_noise=88.6428, shot_noise=89.4468, impulse_noise=92.2640, defocus_blur=81.9880, glass_blur=82.6268,
    motion_blur=78.5948, zoom_blur=79.8360, snow=86.6816, frost=82.6572, fog=81.9324, brightness=56.4592,
    contrast=85.3204, elastic_transform=64.6056, pixelate=71.7840, jpeg_compression=60.6500)
FOLDERS = [f'{name}/{severity}' for name in ALEXNET_ERRORS for severity in range(1, 6)]


@DATASETS.register_module()
class ImageNetVariant(ListedImages):
    """Images in folders named by WordNet id, at any depth, with the labels of ImageNet-1K.

    `metainfo['labels']` are the labels that occur: all 1,000 in ImageNet-C and -Sketch, 200 in -A and -R.
    """

    LAYOUT = 'ROOT/<n01440764 …>/*.jpg (-A, -R, -Sketch) or ROOT/<corruption>/<1…5>/<n01440764 …>/*.JPEG (-C)'

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        from timm.data import ImageNetInfo

        wnids = ImageNetInfo().label_names()
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        listed = [(name, labels.get(os.path.basename(os.path.dirname(name))))
                  for name in find_images(self.found(self.data_root))]
        if unknown := [name for name, label in listed if label is None]:
            raise ValueError(f'{self.data_root}: the folder of {unknown[0]!r} is not a WordNet id of ImageNet-1K')
        self._metainfo['labels'] = sorted({label for _, label in listed})
        return wnids, self.data_root, listed


@METRICS.register_module()
class SubsetAccuracy(BaseMetric):
    """Top-1 accuracy, in percent, among the classes of a `mae_mm.ImageNetVariant`, as by the authors of -A and -R."""

    default_prefix = 'accuracy'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        labels = self.dataset_meta['labels']
        preds = [labels[int(sample['pred_score'][labels].argmax())] for sample in data_samples]
        self.results += [pred == int(sample['gt_label']) for pred, sample in zip(preds, data_samples, strict=True)]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return dict(top1=100 * sum(results) / len(results))


@METRICS.register_module()
class MeanCorruptionError(BaseMetric):
    """Mean corruption error on ImageNet-C (arXiv:1903.12261, section 4.2), from one run over all of it.

    Reports, in percent, `corruption/<name>`: top-1 error, mean over severities, relative to AlexNet's; and
    `corruption/mCE`, the mean over the 15 corruptions (not the "extra" ones), if all 75 folders are present.
    """

    default_prefix = 'corruption'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            folder = '/'.join(PurePath(sample['img_path']).parts[-4:-2])
            if folder in FOLDERS:
                self.results.append(2 * FOLDERS.index(folder) + (int(sample['pred_label']) != int(sample['gt_label'])))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        counts = np.bincount(np.array(results, dtype=int), minlength=2 * len(FOLDERS)).reshape(15, 5, 2)  # right, wrong
        images = counts.sum(-1)
        errors = 100 * (100 * counts[..., 1] / images.clip(1)).mean(1) / list(ALEXNET_ERRORS.values())
        complete = images.all(1)  # all five severities
        metrics = {name: float(errors[i]) for i, name in enumerate(ALEXNET_ERRORS) if complete[i]}
        if complete.all():
            return {**metrics, 'mCE': float(errors.mean())}
        print_log(f'no mCE: only {len(metrics)} of 15 corruptions have all 5 severities', 'current', logging.WARNING)
        return metrics
