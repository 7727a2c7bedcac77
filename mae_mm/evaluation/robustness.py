"""Fine-tuned ImageNet models on ImageNet-C, -A, -R and -Sketch."""

import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mae_mm.datasets.image_folder import find_images
from mae_mm.datasets.listed_images import ListedImages
from mae_mm.registry import DATASETS, METRICS

# Errors of AlexNet, in percent, mean over five severities (Hendrycks and Dietterich, arXiv:1903.12261, their code).
ALEXNET_ERRORS = dict(
    gaussian_noise=88.6428, shot_noise=89.4468, impulse_noise=92.2640, defocus_blur=81.9880, glass_blur=82.6268,
    motion_blur=78.5948, zoom_blur=79.8360, snow=86.6816, frost=82.6572, fog=81.9324, brightness=56.4592,
    contrast=85.3204, elastic_transform=64.6056, pixelate=71.7840, jpeg_compression=60.6500)
SEVERITIES = 5


@DATASETS.register_module()
class ImageNetVariant(ListedImages):
    """Images in folders named by WordNet id, at any depth, labelled as ImageNet-1K numbers its classes.

    `metainfo['labels']` are the labels that occur: all 1,000 in ImageNet-C and -Sketch, 200 in -A and -R.

    Args:
        data_root: the folder.
    """

    LAYOUT = 'ROOT/<n01440764 …>/*.jpg (-A, -R, -Sketch) or ROOT/<corruption>/<1…5>/<n01440764 …>/*.JPEG (-C)'

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(data_root=data_root, **kwargs)

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        """Label each image by the folder it is in."""
        from timm.data import ImageNetInfo

        wnids = ImageNetInfo().label_names()
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        listed = []
        for name in find_images(self.found(self.data_root)):
            folder = os.path.basename(os.path.dirname(name))
            if folder not in labels:
                raise ValueError(
                    f'{os.path.join(self.data_root, name)}: its folder {folder!r} is no WordNet id of ImageNet-1K')
            listed.append((name, labels[folder]))
        self._metainfo['labels'] = sorted({label for _, label in listed})
        return wnids, self.data_root, listed


@METRICS.register_module()
class SubsetAccuracy(BaseMetric):
    """Top-1 accuracy, in percent, where only the classes that the data set holds can be answered.

    So ImageNet-A and -R, 200 classes each, are evaluated by their authors. The data set is `mae_mm.ImageNetVariant`.
    """

    default_prefix = 'accuracy'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep one bool for each image."""
        labels = self.dataset_meta['labels']
        for sample in data_samples:
            answer = labels[int(sample['pred_score'][labels].argmax())]
            self.results.append(answer == int(sample['gt_label']))

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        """Give `accuracy/top1`."""
        return dict(top1=100 * sum(results) / len(results))


@METRICS.register_module()
class MeanCorruptionError(BaseMetric):
    """Mean corruption error on ImageNet-C (arXiv:1903.12261, section 4.2), from one run over all of it.

    Reports, in percent, `corruption/<name>`: top-1 error, mean over severities, over AlexNet's; and `corruption/mCE`,
    the mean over the 15 corruptions, if all 75 folders were there. The four "extra" corruptions are left out.
    """

    default_prefix = 'corruption'
    names = tuple(ALEXNET_ERRORS)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep one small number for each image: corruption, severity and whether the answer was wrong."""
        for sample in data_samples:
            corruption, severity = PurePath(sample['img_path']).parts[-4:-2]
            if corruption in self.names:
                group = self.names.index(corruption) * SEVERITIES + int(severity) - 1
                self.results.append(2 * group + (int(sample['pred_label']) != int(sample['gt_label'])))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Average."""
        shape = len(self.names), SEVERITIES, 2  # the last axis: right, wrong
        counts = np.bincount(np.array(results, dtype=int), minlength=math.prod(shape)).reshape(shape)
        images = counts.sum(-1)
        errors = 100 * counts[..., 1] / images.clip(1)
        metrics = {
            name: 100 * float(errors[i].mean()) / ALEXNET_ERRORS[name]
            for i, name in enumerate(self.names) if images[i].all()}
        if images.all():
            return {**metrics, 'mCE': sum(metrics.values()) / len(metrics)}
        missing = [f'{self.names[i]}/{severity + 1}' for i, severity in np.argwhere(images == 0)]
        print_log(
            f'no mCE: {len(missing)} of the 75 folders that it takes are missing, {missing[0]} the first',
            'current', logging.WARNING)
        return metrics
