"""Data sets in a config."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def datasets_of(cfg: Config, loader: str) -> Iterator[tuple[str, ConfigDict]]:
    """Configs of a loader's data set, or of those inside its wrappers and concatenations, each with its key."""
    found = [(f'{loader}.dataset', (cfg.get(loader) or {}).get('dataset'))]
    while found:
        key, dataset = found.pop(0)
        inside = [(f'{key}.datasets.{i}', one) for i, one in enumerate((dataset or {}).get('datasets', []))]
        if 'dataset' in (dataset or {}):
            inside = [(f'{key}.dataset', dataset.dataset)]
        if dataset and not inside:
            yield key, dataset
        found = inside + found
