"""Tiny COCO data and detectors."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from helpers import ROOT
from mae_mm.engine.data_check import LOADERS

NAMES = ['boat', 'ant', 'cup']  # not in alphabetical order
ARCH = dict(embed_dim=32, depth=4, num_heads=2)
FASTER_RCNN, OWN_DATA, BOXES_ALONE, _ = re.findall(
    r'```python\n(.*?)```', (ROOT / 'docs/detection.md').read_text(), re.DOTALL)


def write_coco(folder: Path, change: Callable[[dict], None] | None = None) -> Path:
    """Four images of 40x30 px with one object each in `folder/images`, and `folder/train.json`."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=40, height=30) for i in range(4)],
        annotations=[dict(
            id=10 + i, image_id=i, category_id=5 + i % 3, bbox=[2, 3, 20, 10], area=200, iscrowd=0,
            segmentation=[[2, 3, 22, 3, 22, 13, 2, 13]]) for i in range(4)],
        categories=[dict(id=5 + i, name=name) for i, name in enumerate(NAMES)])
    for image in content['images']:
        Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(folder / 'images' / image['file_name'])
    if change:
        change(content)
    (folder / 'train.json').write_text(json.dumps(content))
    return folder


def own_data(data: Path) -> str:
    """The lines of docs/detection.md for a folder, with its categories."""
    names = tuple(category['name'] for category in json.loads((data / 'train.json').read_text())['categories'])
    return OWN_DATA.replace("('cat', 'dog')", repr(names)).replace('data/mine', str(data))


def write_config(name: str, data: Path, folder: Path, more: str = '') -> Path:
    """A recipe with the lines for own data, shrunk to 64 px and width 32: two iterations, then the metric."""
    lines = own_data(data).replace('configs/detection/vitdet_b_coco', f'{ROOT}/configs/detection/{name}')
    (folder / 'own.py').write_text(lines + more)
    cfg = Config.fromfile(folder / 'own.py')
    taps = list(range(4)) if 'mask_rcnn' in name else [3]
    cfg.model.backbone.update(arch=ARCH, img_size=64, window_size=3, out_indices=taps, checkpointing=True)
    cfg.merge_from_dict({
        'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1, 'model.test_cfg.rpn.max_per_img': 20, 'model.test_cfg.rcnn.max_per_img': 5,
        'model.train_cfg.rpn_proposal.max_per_img': 20, 'model.train_cfg.rcnn.sampler.num': 8,
        'param_scheduler.1.begin': 0, 'auto_scale_lr.base_batch_size': 2, 'train_dataloader.batch_size': 2,
        **{f'{loader}.{key}': value for loader in LOADERS
           for key, value in dict(num_workers=0, persistent_workers=False).items()}})
    if 'mask_rcnn' in name:
        cfg.model.neck = [dict(cfg.model.neck[0], embed_dim=32), dict(cfg.model.neck[1], in_channels=[32] * 4)]
    else:
        cfg.model.neck.embed_dim = 32
    text = cfg.pretty_text.replace('1024', '64')  # pixels, and the width of a linear layer
    (folder / 'tiny.py').write_text(text)
    return folder / 'tiny.py'
