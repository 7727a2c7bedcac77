"""Configs for data of one's own: a recipe of configs/own_data/, filled with classes, images and the encoder's sizes."""

import functools
import json
import os
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.datasets.labelled import Labelled
from mae_mm.datasets.layouts import Sample
from mae_mm.engine.runner import load_config
from mae_mm.transfer.types import Metric

TAPS = (1 / 3, 1 / 2, 2 / 3, 1)  # of the depth: the blocks that UperNet reads
PIXELS = ('mean', 'std', 'clip', 'per_image')  # settings of a checkpoint that normalise
LARGER = 4 / 3  # times the side of pre-training: detection and segmentation have smaller objects


class Task(NamedTuple):
    """What differs between tasks."""

    config: str
    key: str  # of the metric that is compared
    metric: Metric
    min_iters: int  # shortest default length
    epochs: int  # default length, of all training labels
    host: str  # its preprocessor


TASKS = dict(
    classification=Task('configs/own_data/classification.py', 'accuracy/top1', Metric('top-1'), 200, 30,
                        'mmpretrain.ClsDataPreprocessor'),
    segmentation=Task('configs/own_data/segmentation.py', 'mIoU', Metric('mIoU'), 400, 20,
                      'mmseg.SegDataPreProcessor'),
    detection=Task('configs/own_data/detection.py', 'coco/bbox_mAP', Metric('box AP', 100.0), 600, 20,
                   'mmdet.DetDataPreprocessor'))


def own_config(data: Labelled, encoder: Checkpoint, iters: int, rate: float, size: int | None = None,
               options: dict | None = None) -> Config:
    """The recipe of the data's task for an encoder.

    Args:
        rate: factor of the recipe's learning rate.
        size: side of the images in pixels, a multiple of the patch size. By default the side of pre-training for
            classification, and 4/3 of it otherwise.
        options: of `--cfg-options`; sizes, classes and lengths are filled in afterwards.
    """
    cfg = load_config(TASKS[data.task].config, options)
    _, chans, patch, _ = encoder.tensors['patch_embed.proj.weight'].shape
    tokens = max(encoder.grid or (14, 14))
    side = size or patch * (tokens if data.task == 'classification' else round(LARGER * tokens))
    if side % patch:
        raise ValueError(f'--size {side} must be a multiple of the patch size {patch}')
    heads = encoder.settings.get('num_heads') or max(1, encoder.embed_dim // 64)
    cfg.model.backbone.update(
        arch=dict(embed_dim=encoder.embed_dim, depth=encoder.depth, num_heads=heads), img_size=side, patch_size=patch,
        in_chans=chans)
    {'classification': _fill_classification, 'segmentation': _fill_segmentation, 'detection': _fill_detection}[
        data.task](cfg, data, encoder, side, patch)
    _read_as_pretrained(cfg, data.task, encoder)
    if torch.cuda.is_available():  # one run at a time, whose images the CPUs decode
        cfg.train_dataloader.update(num_workers=min(8, os.cpu_count()), persistent_workers=True)
    cfg.optim_wrapper.optimizer.lr *= rate
    cfg.train_cfg.update(max_iters=iters, val_interval=iters)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = max(1, iters // 10)
    return cfg


def _read_as_pretrained(cfg: Config, task: str, encoder: Checkpoint) -> None:
    """Read and normalise images as the pre-training did: any bands and types, where it read more than photographs."""
    pixels = {key: encoder.settings[key] for key in PIXELS if key in encoder.settings}
    owner = cfg if task == 'classification' else cfg.model
    if not (reading := encoder.settings.get('reading')):
        owner.data_preprocessor.update({key: pixels[key] for key in ('mean', 'std') if key in pixels})
        return
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        first = loader.dataset.pipeline[0] if task == 'classification' else dict(type='mae_mm.LoadImage')
        loader.dataset.pipeline[0] = {**first, **reading}
    host = {key: value for key, value in owner.data_preprocessor.items()
            if key not in ('type', 'mean', 'std', 'to_rgb', 'bgr_to_rgb')}
    owner.data_preprocessor = dict(type='mae_mm.ImagePreprocessor', **pixels, host=dict(type=TASKS[task].host, **host))


def _fill_classification(cfg: Config, data: Labelled, encoder: Checkpoint, side: int, patch: int) -> None:
    cfg.model.head.update(num_classes=len(data.classes), in_channels=encoder.embed_dim)
    cfg.data_preprocessor.num_classes = len(data.classes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline[0].size = side


def _fill_segmentation(cfg: Config, data: Labelled, encoder: Checkpoint, side: int, patch: int) -> None:
    cfg.model.data_preprocessor.update(size=(side, side), test_cfg=dict(size_divisor=patch))
    cfg.model.backbone.out_indices = [max(0, round(share * encoder.depth) - 1) for share in TAPS]
    cfg.model.neck.embed_dim = encoder.embed_dim
    cfg.model.decode_head.update(in_channels=[encoder.embed_dim] * 4, num_classes=len(data.classes))
    cfg.model.auxiliary_head.update(in_channels=encoder.embed_dim, num_classes=len(data.classes))
    _set_scales(cfg, scale=(4 * side, side), crop_size=(side, side))


def _fill_detection(cfg: Config, data: Labelled, encoder: Checkpoint, side: int, patch: int) -> None:
    strides = [patch // 2, patch, 2 * patch]
    cfg.model.data_preprocessor.pad_size_divisor = 4 * patch
    cfg.model.backbone.out_indices = (encoder.depth - 1, )
    cfg.model.neck.embed_dim = encoder.embed_dim
    cfg.model.rpn_head.anchor_generator.strides = [*strides, 4 * patch]
    heads = cfg.model.roi_head
    for part in ('bbox', 'mask'):
        heads[f'{part}_roi_extractor'].featmap_strides = strides
        heads[f'{part}_head'].num_classes = len(data.classes)
    _set_scales(cfg, scale=(side, side), crop_size=(side, side))
    with_masks = all(one.get('segmentation') for path in data.annotations for one in _read(path)['annotations'])
    if not with_masks:
        heads.mask_head = heads.mask_roi_extractor = None
        cfg.val_evaluator.metric = ['bbox']
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            for transform in loader.dataset.pipeline:
                if 'with_mask' in transform:
                    transform.with_mask = False


def _set_scales(cfg: Config, **values: tuple[int, int]) -> None:
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for transform in loader.dataset.pipeline:
            transform.update({key: value for key, value in values.items() if key in transform})


def use_images(cfg: Config, data: Labelled, train: Sequence[Sample], test: Sequence[Sample]) -> None:
    """Write lists of the images, or their annotations, into the config's work folder, and let the config read them."""
    root, folder = Path(data.root).absolute(), Path(cfg.work_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for side, samples in dict(train=train, val=test).items():
        file = folder / f'{side}.{"json" if data.task == "detection" else "txt"}'
        if data.task == 'detection':
            file.write_text(json.dumps(_annotations(data, samples)))
        else:
            between = '\t' if data.task == 'segmentation' else ' '
            file.write_text(''.join(f'{one.name}{between}{one.label}\n' for one in samples), errors='surrogateescape')
        dataset = cfg[f'{side}_dataloader'].dataset
        dataset.update(
            data_root=str(root), ann_file=str(file),
            metainfo=dict(classes=list(data.classes), palette=_colours(len(data.classes))))
    if data.task == 'detection':
        cfg.val_evaluator.ann_file = cfg.val_dataloader.dataset.ann_file
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator


def _colours(count: int) -> list[tuple[int, int, int]]:
    """Different hues, of two brightnesses in turn, for pictures."""
    return [tuple(round(255 * part) for part in hsv_to_rgb(i / count, 1, 1 - 0.4 * (i % 2))) for i in range(count)]


@functools.lru_cache(maxsize=2)  # every run takes its part of the same one or two files, which may be large
def _read(path: str) -> dict:
    return json.loads(Path(path).read_bytes())


def _annotations(data: Labelled, samples: Sequence[Sample]) -> dict:
    """The COCO annotations of some images of one side of the split; names become relative to the data's root."""
    names = {sample.label: sample.name for sample in samples}
    content = _read(data.annotations[-1 if samples[0] in data.test else 0])
    return dict(
        images=[dict(one, file_name=names[one['id']]) for one in content['images'] if one['id'] in names],
        annotations=[one for one in content['annotations'] if one['image_id'] in names],
        categories=content['categories'])
