"""What is fuzzed: sample files for each reader, and a function that reads one input and names the outcome."""

import atexit
import gc
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
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
    """Call readers of one input: 'read' if any of them accepts it, else the name of the last documented error."""
    name, taken = '', False
    for reader in readers:
        try:
            reader()
            taken = True
        except documented as error:
            name = type(error).__name__
    return 'read' if taken else name


def replaced(content: object, values: list) -> Iterator[object]:
    """Copies of nested dicts and lists in which one item, at any depth, is replaced by each of the values."""
    yield from values
    places = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for place, inner in places:
        for new in replaced(inner, values):
            copy = content.copy()
            copy[place] = new
            yield copy


def odd_tensors() -> list[torch.Tensor]:
    """Tensors that are not valid weights."""
    plain = torch.ones(1, 5, 8)
    return [
        plain.to_sparse(), plain.to('meta'), plain.to(torch.complex64), plain.int(), plain.double() * 1e300,
        plain * float('nan'), plain[:, :1, :1].expand(1, 10 ** 11, 8), torch.tensor(1.0), torch.zeros(1, 0, 8),
        torch.ones(3, 1, 2, 7), torch.ones(8), torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8)]


def checkpoint() -> Target:
    """Loading into a ViT and reading for resumption; documented: ValueError and FileNotFoundError."""
    from mmengine.logging import HistoryBuffer

    from mae_mm.checkpoint import load_pretrained
    from mae_mm.engine.resume import broken_part, read_training_state
    from mae_mm.models.vit import ViT

    vit = ViT(dict(embed_dim=8, depth=1, num_heads=2), img_size=4, patch_size=2)
    weights = dict(vit.state_dict())
    config = "model = dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', img_size=4, {}), neck=dict(num_heads=2))"
    run = dict(
        meta=dict(epoch=1, iter=2, cfg=config.format('patch_size=2, arch=dict(num_heads=2)')),
        state_dict={f'backbone.{name}': value for name, value in weights.items()},
        message_hub=dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])}, runtime_info={}, resumed_keys={}))
    settings = dict(grid=(2, 2), num_heads=2, decoder_num_heads=2, mask_ratio=0.75, norm_pix_loss=True)
    contents = [
        weights, dict(model=weights), run, *({**run, 'meta': meta} for meta in replaced(
            dict(epoch=1, iter=2, mae_mm=settings), ['x', 0, -1.5, None, [], {}, 10 ** 30, (0, 'x')])),
        *({**run, 'meta': dict(run['meta'], cfg=cfg)} for cfg in (
            *(config.format(part) for part in ("arch='x'", 'patch_size=0', 'img_size=[]', 'arch=' + '-' * 10 ** 5)),
            '-' * 10 ** 6, 'a' + '.a' * 10 ** 5, '(' * 10 ** 5)),
        *({**weights, name: odd} for name in ('pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.bias')
          for odd in odd_tensors()),
        *({**weights, name: torch.ones(8)} for name in ('blocks.x.norm1.bias', 'blocks', 'decoder_pred.weight'))]
    samples = []
    for content in contents:
        for new in (True, False):
            torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=new)
            samples.append(file.getvalue())
    samples.append(safetensors.torch.save(weights))
    path = _folder() / 'checkpoint.pth'

    def read(data: bytes) -> str:
        path.write_bytes(data)
        broken_part(path)
        return outcome(
            [lambda: read_training_state(path), lambda: load_pretrained(vit, path)], (ValueError, FileNotFoundError))

    return samples, read


def annotations() -> Target:
    """INaturalist, Places365 and COCO files, and tools/check_dataset.py; documented: ValueError, FileNotFoundError."""
    from mae_mm.datasets import INaturalist, Places365
    from mae_mm.datasets.checks.coco import check_annotations, check_categories, read_annotations
    from mae_mm.datasets.checks.images import list_files

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
    samples = [
        *(json.dumps(content).encode() for content in (coco, *replaced(
            coco, [None, 'x', 5, -1.5, 10 ** 400, [], [[]], {}, ['x'], '\ud800']))),
        b'[' * 10 ** 5, b'/a/1.jpg 0\n', b'/a/airfield 0\n', b'/a/1.jpg 999999999999\n']
    json_file, list_file = root / 'train2018.json', root / 'places365_train_standard.txt'
    coco_file = root / 'annotations' / 'instances_train2017.json'
    coco_file.parent.mkdir()

    gc.freeze()  # mmengine collects garbage for each data set, which takes a second if much is imported

    def read_coco() -> None:
        content = read_annotations(coco_file)
        check_annotations(content, coco_file, with_masks=True)
        check_categories(content, coco_file, ['a'], {})

    def read(data: bytes) -> str:
        for file in (json_file, list_file, coco_file):
            file.write_bytes(data)
        return outcome(
            [read_coco, lambda: INaturalist(data_root=str(root)),
             lambda: Places365(data_root=str(root)), lambda: list_files('coco', str(root))],
            (ValueError, FileNotFoundError))

    return samples, read


def image() -> Target:
    """`decode` and two crops for training, from a reduced image and from a part of one; documented: DecodeError."""
    from mae_mm.datasets import DecodeError, LoadRandomResizedCrop, decode

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


def pixels(*kinds: str) -> Callable[[], Target]:
    """A target of files with more than 8 bits, read from the path, from the content, and in windows."""
    def target() -> Target:
        from helpers.pixels import WRITERS, ramp, write_geotiff

        from mae_mm.datasets import DecodeError, LoadImage, LoadRandomResizedCrop

        folder, samples = _folder(), []
        for kind in kinds:
            extension, bands, write = WRITERS[kind]
            write(folder / f'sample.{extension}', ramp(bands))
            samples.append((folder / f'sample.{extension}').read_bytes())
        if 'geotiff' in kinds:
            for options in (dict(nodata=7), dict(compress='lzw'), dict(bigtiff='yes'), dict(interleave='pixel'),
                            dict(compress='zstd'), dict(compress='packbits', tiled=True, blockxsize=16, blockysize=16)):
                write_geotiff(folder / 'sample.tif', ramp(), **options)
                samples.append((folder / 'sample.tif').read_bytes())
        path = folder / 'input'
        load, crop = LoadImage(), LoadRandomResizedCrop(8, dtype='keep', channels='unchanged')

        def read(data: bytes) -> str:
            path.write_bytes(data)
            named = dict(img_path=str(path))
            return outcome(
                [lambda: load(dict(named)), lambda: load(dict(named, read=lambda: data)), lambda: crop(dict(named))],
                (DecodeError, ))

        return samples, read

    return target


TARGETS = dict(
    checkpoint=checkpoint, annotations=annotations, image=image,
    geotiff=pixels('geotiff', 'tiled geotiff', 'big-endian tiff'), tiff_stack=pixels('ome-tiff', 'big-endian ome-tiff'),
    npy=pixels('npy', 'big-endian npy', 'fortran npy'), dicom=pixels('dicom'),
    png_16=pixels('gray png', 'rgb png', 'pgm', 'ppm'))
