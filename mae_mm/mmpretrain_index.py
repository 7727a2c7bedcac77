"""mmpretrain's `list_models` and `get_model` know the models of our metafiles, once `mae_mm` is imported."""

from pathlib import PurePosixPath

from mmengine.runner import CheckpointLoader
from torch import Tensor

from mae_mm.paths import ROOT

RELEASE = 'https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_'


def register(hub: type) -> None:
    """Add them to mmpretrain's `ModelHub`, and let mmengine read the released weights that some of them name."""
    index = ROOT / 'model-index.yml'
    if index.is_file():  # not in a copy of the package alone, whose models have no configs
        hub.register_model_index(index, config_prefix=ROOT)
    CheckpointLoader.register_scheme(RELEASE, load_from_release)


def load_from_release(filename: str, map_location: object = None) -> dict[str, dict[str, Tensor]]:
    """A released file under the names of `mae_mm.MAE`; mmengine would load nothing from it, and say so in a warning."""
    from mae_mm.checkpoint.contents import read_checkpoint
    from mae_mm.checkpoint.formats import FORMATS, from_canonical

    checkpoint = read_checkpoint(PurePosixPath(filename).stem.replace('_pretrain', ''))  # mae_vit_base_full
    return dict(state_dict=from_canonical(checkpoint.tensors, FORMATS['mae_mm']))
