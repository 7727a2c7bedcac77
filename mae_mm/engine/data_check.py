"""Are the files of a config's data sets there? The answer before anything is built."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mae_mm.checkpoint.settings import reading_of
from mae_mm.datasets.checks import coco
from mae_mm.datasets.configs import LOADERS, datasets_of
from mae_mm.datasets.pixels import Reading
from mae_mm.engine.runner import load_config
from mae_mm.models.patches import grid_of

DEMO = 'python tools/make_demo_data.py --out data/demo    (then use a config of configs/demo/)'
LAYOUTS = {
    'ImageFolder': 'a folder of images, flat or nested, any names:  ROOT/…/*.jpg|png|…',
    'TiledImages': 'a folder of large images:  ROOT/…/*.tif|svs|…',
    'ImageNet': 'ROOT/train/<class>/*.JPEG and ROOT/val/<class>/*.JPEG, or ROOT/meta/{train,val}.txt',
    'CustomDataset': 'ROOT/<class>/*.jpg',
    'CocoDataset': 'ROOT/{train,val}2017/*.jpg and ROOT/annotations/instances_{train,val}2017.json',
    'ADE20KDataset': 'ROOT/{images,annotations}/{training,validation}/*.{jpg,png}  (ROOT is ADEChallengeData2016)',
    'BaseSegDataset': 'images in ROOT/<data_prefix.img_path>, label maps in ROOT/<data_prefix.seg_map_path>',
}


def check_data(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Look for the files of every data set, and into COCO annotations, before anything is built."""
    for loader in loaders:
        for where, dataset in datasets_of(cfg, loader):
            for key, path in _data_paths(dataset):
                if not path.exists():
                    kind = dataset.get('type', '')
                    raise FileNotFoundError(
                        f'no data at {path.absolute()}  ({where}.{key}, {kind})\n'
                        f'  expected:   {LAYOUTS.get(kind.rsplit(".", 1)[-1], f"as {kind} documents it")}\n'
                        f'  own data:   --cfg-options {where}.{key}=PATH\n'
                        f'  demo data:  {DEMO}')
            check_channel_order(cfg, dataset, where)
            check_bands(cfg, dataset, where)
            if loader == LOADERS[0] or cfg.model.type == 'mae_mm.MAE':
                check_size(cfg, dataset, where)
        coco.check_loader(cfg, loader)


def check_channel_order(cfg: Config, dataset: ConfigDict, where: str) -> None:
    """Refuse a preprocessor that would turn the RGB of our transforms into BGR: every prediction would be worse."""
    first = next(iter(dataset.get('pipeline') or []), {})
    for key, preprocessor in (('data_preprocessor', cfg.get('data_preprocessor')),
                              ('model.data_preprocessor', cfg.model.get('data_preprocessor'))):
        for option in ('to_rgb', 'bgr_to_rgb'):
            if (preprocessor or {}).get(option) and str(first.get('type')).startswith('mae_mm.Load'):
                raise ValueError(
                    f'{where}.pipeline begins with {first["type"]}, which delivers RGB, and {key}.{option}=True would '
                    f'swap its channels: --cfg-options {key}.{option}=False')


def check_bands(cfg: Config, dataset: ConfigDict, where: str) -> None:
    """Refuse another number of bands than the model has, or another order of names: weights would go to wrong ones."""
    named = [(cfg.model.get('backbone') or {}).get('in_chans'),
             next(iter(dataset.get('pipeline') or []), {}).get('bands')]
    if all(isinstance(one, list | tuple) and all(isinstance(name, str) for name in one) for one in named) and (
            [*named[0]] != [*named[1]]):
        raise ValueError(f'{where}.pipeline.0.bands={[*named[1]]} differs from model.backbone.in_chans={[*named[0]]}: '
                         'both must have the same names in the same order')
    counts = [len(one) if isinstance(one, list | tuple) else one for one in named]
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(f'{where}.pipeline.0.bands={named[1]} differs from model.backbone.in_chans={named[0]}: both '
                         'must be as many')


def check_size(cfg: Config, dataset: ConfigDict, where: str) -> None:
    """Refuse images of another size than the ViT is configured for: it would adapt to them without a word."""
    first, backbone = next(iter(dataset.get('pipeline') or []), {}), cfg.model.get('backbone') or {}
    for i, size in enumerate(dataset.get('crop_sizes') or []):
        try:
            grid_of(size, backbone.get('patch_size', 16))
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where}.crop_sizes.{i}={size}: must be (height, width); {error}') from error
    if backbone.get('type') != 'mae_mm.ViT' or not str(first.get('type')).startswith('mae_mm.Load'):
        return
    sizes = [first.get('size'), backbone.get('img_size', 224)]
    pixels = [[size] * 2 if isinstance(size, int) else [*(size or ())] for size in sizes]
    if pixels[0] and pixels[0] != pixels[1]:
        here, there = (str(size).replace(' ', '') for size in sizes)
        raise ValueError(
            f'{where}.pipeline.0.size={here} differs from model.backbone.img_size={there}: --cfg-options '
            f'{where}.pipeline.0.size={there} or model.backbone.img_size={here}')


def _data_paths(dataset: ConfigDict) -> Iterator[tuple[str, Path]]:
    """Paths that a data set's config names, each with its key, the root first."""
    root, prefixes = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    if '://' in str(root) or '*' in str(root):  # mae_mm.ImageTar looks for itself
        return
    parts = dict(ann_file=dataset.get('ann_file'), **(
        {f'data_prefix.{key}': prefix for key, prefix in prefixes.items()} if isinstance(prefixes, dict)
        else dict(data_prefix=prefixes)))
    if root:
        yield 'data_root', Path(root)
    yield from ((key, Path(root, part)) for key, part in parts.items() if part)


def reading_of_config(path: str | None, options: dict) -> Reading:
    """How the validation of a config reads files, changed by `options` (dtype, bands, nodata, window)."""
    step = load_config(path).val_dataloader.dataset.pipeline[0] if path else dict(type='')
    kept = {field.name for field in fields(Reading)}
    if unknown := sorted(set(options) - kept):
        raise ValueError(f'--reading {unknown[0]}: must be one of {", ".join(sorted(kept))}')
    read = {key: value for key, value in reading_of(step).items() if key in kept} | options
    return Reading(**(dict(dtype='keep') if options else {}) | read)
