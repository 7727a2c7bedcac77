"""What is fuzzed: sample files for each reader, and a function that reads one input and names the outcome."""

import atexit
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

Target = tuple[list[bytes], Callable[[bytes], str]]


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix='mae_mm_fuzz_'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def outcome(readers: list[Callable[[], object]], documented: tuple[type[Exception], ...]) -> str:
    """Call readers of one input: 'read' if any of them takes it, else the name of the last one's documented error."""
    name, taken = '', False
    for reader in readers:
        try:
            reader()
            taken = True
        except documented as error:
            name = type(error).__name__
    return 'read' if taken else name


def checkpoint() -> Target:
    """`read_checkpoint`, and what a resumed run reads: documented are ValueError and FileNotFoundError."""
    from mmengine.logging import HistoryBuffer

    from mae_mm.checkpoint import read_checkpoint
    from mae_mm.checkpoint.resume import broken_part, read_training_state

    weights = {'patch_embed.proj.weight': torch.zeros(8, 3, 2, 2), 'pos_embed': torch.zeros(1, 5, 8),
               'cls_token': torch.zeros(1, 1, 8), 'blocks.0.norm1.weight': torch.zeros(8)}
    run = dict(
        meta=dict(epoch=1, iter=2, cfg='model = dict(backbone=dict(type="mae_mm.ViT"))'),
        state_dict={f'backbone.{name}': value for name, value in weights.items()},
        message_hub=dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])}, runtime_info={}, resumed_keys={}))
    samples = []
    for content in (weights, dict(model=weights), run):
        for new in (True, False):
            torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=new)
            samples.append(file.getvalue())
    samples.append(safetensors.torch.save(weights))
    path = _folder() / 'checkpoint.pth'

    def read(data: bytes) -> str:
        path.write_bytes(data)
        broken_part(path)
        return outcome(
            [lambda: read_training_state(path), lambda: read_checkpoint(path)], (ValueError, FileNotFoundError))

    return samples, read


def annotations() -> Target:
    """INaturalist, Places365 and COCO files: documented are ValueError and FileNotFoundError."""
    from mae_mm.coco import check_categories, check_entries, read_annotations
    from mae_mm.datasets import INaturalist, Places365

    coco = dict(
        images=[dict(id=1, file_name='train_val2018/a/1.jpg', width=4, height=4)],
        annotations=[dict(
            id=1, image_id=1, category_id=1, bbox=[0, 0, 2, 2], area=4, iscrowd=0, segmentation=[[0] * 6])],
        categories=[dict(id=1, name='a')])
    root = _folder()
    (root / 'data_256' / 'a').mkdir(parents=True)
    (root / 'train_val2018' / 'a').mkdir(parents=True)
    for image in (root / 'data_256' / 'a' / '1.jpg', root / 'train_val2018' / 'a' / '1.jpg'):
        image.touch()
    (root / 'categories_places365.txt').write_text('/a/airfield 0\n')
    samples = [json.dumps(coco).encode(), b'/a/1.jpg 0\n', b'/a/airfield 0\n']
    json_file, list_file = root / 'train2018.json', root / 'places365_train_standard.txt'

    def read_coco() -> None:
        content = read_annotations(json_file)
        try:
            check_entries(content, json_file, with_masks=True)
            check_categories(content, json_file, ['a'], {})
        except KeyError as error:  # as check_loader does
            raise ValueError(str(error)) from error

    def read(data: bytes) -> str:
        json_file.write_bytes(data)
        list_file.write_bytes(data)
        return outcome(
            [read_coco, lambda: INaturalist(data_root=str(root)), lambda: Places365(data_root=str(root))],
            (ValueError, FileNotFoundError))

    return samples, read


def image() -> Target:
    """`decode` and two views for training, of a reduced image and of a crop alone: documented is DecodeError."""
    from mae_mm.datasets import DecodeError, LoadRandomResizedCrop, decode

    logging.disable()
    warnings.simplefilter('ignore')
    rng, samples = np.random.default_rng(0), []
    picture = Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, form, options in (
            ('RGB', 'JPEG', {}), ('L', 'JPEG', {}), ('RGB', 'JPEG', dict(exif=exif)),
            ('CMYK', 'JPEG', {}), ('L', 'JPEG', dict(progressive=True)),
            ('RGB', 'PNG', {}), ('RGBA', 'PNG', {}), ('P', 'PNG', {}), ('P', 'GIF', {}), ('RGB', 'BMP', {}),
            ('RGB', 'TIFF', {}), ('RGB', 'WEBP', {}), ('L', 'PPM', {})):
        picture.convert(mode).save(file := io.BytesIO(), form, **options)
        samples.append(file.getvalue())
    np.save(file := io.BytesIO(), np.asarray(picture))
    samples.append(file.getvalue())
    path = _folder() / 'image'
    reduced, cropped = LoadRandomResizedCrop(8), LoadRandomResizedCrop(32, scale=(0.2, 0.5))

    def read(data: bytes) -> str:
        path.write_bytes(data)
        return outcome(
            [lambda: decode(data, 'rgb'), lambda: decode(data, 'gray'), lambda: decode(data, 'unchanged'),
             lambda: reduced(dict(img_path=str(path))), lambda: cropped(dict(img_path=str(path)))], (DecodeError, ))

    return samples, read


TARGETS = dict(checkpoint=checkpoint, annotations=annotations, image=image)
