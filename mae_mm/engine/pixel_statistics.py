"""tools/pixel_statistics.py: what the pixels of a folder are like, and the config for them."""

import os
from pathlib import Path

from mae_mm.checkpoint.files import write_beside
from mae_mm.datasets.configs import LOADERS
from mae_mm.datasets.find import EXTENSIONS
from mae_mm.datasets.pixel_files import extensions_of
from mae_mm.datasets.statistics import PERCENTILES, Statistics
from mae_mm.engine.own_data import measure, reader_of
from mae_mm.engine.runner import load_config


def pixel_statistics(
    root: str, images: int | None, workers: int, reading: dict, config: str, out: str | None,
) -> None:
    """Measure a folder or tars, print a table and the lines of a config, and write the config if `out` is given."""
    dataset = reader_of(root, 'FOLDER', extensions_of('keep'))
    found, broken = measure(
        dict(dataset, pipeline=[dict(type='mae_mm.LoadImage', **reading)]), workers, images)
    photos = [*found.types] == ['uint8'] and len(found.mean) == 3 and not reading
    names = band_names(found)
    options = {} if photos else dict(dtype=best_dtype(found), bands=reading.get('bands') or names or len(found.mean))
    options |= {key: reading[key] for key in ('nodata', 'window') if key in reading}
    low, high = (found.percentiles[one] for one in (PERCENTILES[0], PERCENTILES[-1]))
    pixels = dict(mean=found.mean, std=found.std)
    clipped = dict(mean=found.clipped_mean, std=found.clipped_std, clip=[low, high])
    print('\n'.join(table(found)))
    if broken:
        print(f'{len(broken)} images cannot be read, such as {broken[0]}')
    print(f'\nin every mae_mm.Load… transform:  {keywords(options) or "nothing: they are photographs"}\n'
          f'model.data_preprocessor:          {keywords(pixels)}\n'
          f'or, without the outermost pixels: {keywords(clipped)}')
    if out:
        extensions = {key: dataset[key] for key in ('extensions', ) if key in dataset}
        text = derived_config(config, out, extensions, options, pixels, None if photos else names)
        write_beside(out, lambda part: part.write_text(text))
        print(f'\n{out} is written: python tools/train.py {out} --data {root}')


def table(found: Statistics) -> list[str]:
    """Lines to read."""
    types = ', '.join(f'{name} ({count:,})' for name, count in found.types.items())
    lines = [f'{found.images:,} images of {len(found.mean)} bands; types: {types}']
    lines += [f'{count:,} images have {bands} bands and are left out; which: python tools/check_dataset.py FOLDER '
              f'--reading bands={len(found.mean)}' for bands, count in found.others.items()]
    if len(found.names) > 1:
        lines += ['the names of the bands differ, and so may their order: --bands names those to take, in '
                  'their order; without it they are taken by their position']
        lines += [f'  {count:,} images: {", ".join(map(str, names)) or "no names"}'
                  for names, count in found.names.items()]
    names = ('band', 'mean', 'deviation', 'lowest', *(f'{p} %' for p in PERCENTILES), 'highest', 'no data')
    columns = (found.mean, found.std, found.low, *found.percentiles.values(), found.high)
    lines.append(''.join(f'{name:>12}' for name in names))
    bands = band_names(found) or range(1, len(found.mean) + 1)
    for band, *row in zip(bands, *columns, found.without_data, strict=True):
        lines.append(f'{band:>12}' + ''.join(f'{value:>12g}' for value in row[:-1]) + f'{row[-1]:>12.2%}')
    return lines


def band_names(found: Statistics) -> list[str] | None:
    """Of the bands, if all files have the same ones, and a name for each band."""
    names, *others = found.names
    return None if others or not all(names) or len({*names}) < len(found.mean) else [*names]


def best_dtype(found: Statistics) -> str:
    """The one type of all files, or float32, which holds all of them."""
    only, *others = found.types
    return 'float32' if others else 'keep' if only == 'uint8' else only


def keywords(options: dict) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in options.items())


def derived_config(
    config: str, out: str, dataset: dict, options: dict, pixels: dict, names: list[str] | None,
) -> str:
    """`config` for these images: extensions, bands, types, mean and deviation are set."""
    base = load_config(config)
    lines = [
        f'"""{Path(config).name} for other pixels, by tools/pixel_statistics.py."""',
        f'_base_ = {os.path.relpath(config, Path(out).parent)!r}',
        'model = dict(', f'    data_preprocessor=dict({keywords(pixels)}),',
        f'    backbone=dict(in_chans={names or len(pixels["mean"])}))']
    for loader in LOADERS[:2]:
        steps = [dict(step) for step in base[loader].dataset.pipeline]
        steps[0].update(options)
        if 'extensions' in base[loader].dataset:  # for images of its own
            dataset = dict(extensions=[*EXTENSIONS]) | dataset
        lines.append(f'{loader} = dict(dataset=dict({keywords({**dataset, "pipeline": steps})}))')
    return '\n'.join([*lines, 'test_dataloader = val_dataloader', ''])
