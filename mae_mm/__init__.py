"""Masked-autoencoder pre-training of a plain ViT, and its transfer, as an OpenMMLab plugin."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec

# OpenMP threads spin at each barrier, which makes a training beside other processes several times slower. The runtime
# of torch (GNU's; Intel's in conda) reads this when torch is imported, in subprocesses too.
SPINNING = ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY')
if not any(name in os.environ for name in SPINNING):
    os.environ.update(GOMP_SPINCOUNT='2000', KMP_BLOCKTIME='1')

_HUB = 'mmpretrain.apis.model'


class _Announce:
    """Finder of imports that adds our models to those of mmpretrain, in whatever order both are imported.

    mmpretrain takes seconds to import, so this waits until somebody else does.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != _HUB:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_register(module: object) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register
        return spec


def _register(module: object) -> None:
    import_module(f'{__name__}.mmpretrain_index').register(module.ModelHub)


if _HUB in sys.modules:
    _register(sys.modules[_HUB])
else:
    sys.meta_path.insert(0, _Announce())

__version__ = '0.2.0'
_ROOMS = {  # imported when first used, so that detectors and segmentors never import mmpretrain
    'ViT': 'models.vit', 'MAE': 'models.mae', 'MAEDecoder': 'models.decoders', 'MaskedConv': 'models.masked_conv',
    'FourTapPyramid': 'models.necks', 'SimplePyramid': 'models.necks',
    'ImagePreprocessor': 'models.data_preprocessor', 'Checkpoint': 'checkpoint.contents',
    'read_checkpoint': 'checkpoint.contents', 'write_checkpoint': 'checkpoint.contents',
    'load_pretrained': 'checkpoint.loading', 'CONFIGS': 'paths', 'load_encoder': 'evaluation.encoder'}
__all__ = ['__version__', *_ROOMS]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_ROOMS[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
