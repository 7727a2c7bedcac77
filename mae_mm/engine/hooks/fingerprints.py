"""Fingerprints of the training images, so that a later comparison can tell whether its test images were among them."""

import os
from functools import partial
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.datasets.leaks import FILE, fingerprint
from mae_mm.datasets.limits import read_file
from mae_mm.registry import HOOKS


@HOOKS.register_module()
class FingerprintHook(Hook):
    """Write perceptual hashes of the training images to `fingerprints.npz` in the work folder, once in a run.

    `tools/transfer.py --data` looks there. The first step waits for it: some milliseconds of CPU for each image.

    Args:
        max_images: for larger data sets there are none, and the log says so.
    """

    def __init__(self, max_images: float = 20_000) -> None:
        self.max_images = max_images

    def before_train(self, runner: Runner) -> None:
        dataset, file = runner.train_dataloader.dataset, Path(runner.work_dir) / FILE
        while hasattr(dataset, 'dataset'):  # the loops of mae_mm wrap it
            dataset = dataset.dataset
        if not is_main_process() or not isinstance(dataset, ImageFolder) or (runner.iter and file.exists()):
            return
        if len(dataset) > self.max_images:
            runner.logger.info(
                f'no fingerprints of {len(dataset):,} training images, with which tools/transfer.py --data finds test '
                'images among them: --cfg-options default_hooks.fingerprints.max_images=1e9 writes them')
            return
        reads = {}
        for info in map(dataset.get_data_info, range(len(dataset))):
            if 'read' in info:  # inside a tar
                reads[info['img_path']] = info['read']
            else:
                path = os.path.abspath(info['img_path'])
                reads[path] = partial(read_file, path)
        try:
            fingerprint([*reads], lambda name: reads[name]()).save(file)
        except ValueError as error:  # without ImageHash
            runner.logger.info(f'no fingerprints of the training images: {error}')
