"""A model from a checkpoint of that very model: all of its weights are loaded, or none and the reason is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from mae_mm.checkpoint.files import read_content, unwrap
from mae_mm.checkpoint.formats import recognise, shorten
from mae_mm.checkpoint.trust import check_weights, contents_of


def load_exactly(
    model: nn.Module, checkpoint: str | Path, prefix: str = '', classes: Sequence[str] | None = None, config: str = '',
) -> Mapping:
    """Load all weights of a model, buffers included, and return the contents of the file.

    If a weight is missing, left over, of another shape or not finite, this is a ValueError, and nothing is loaded.
    Wrappers of the model (DistributedDataParallel, test-time augmentation) are removed. Only keys that begin with
    `prefix` are taken, without it. `classes` of the config's data set and the `config`'s name are for the message.
    """
    content = read_content(checkpoint)[0]
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    own = model.state_dict()  # shares its memory with the model
    with contents_of(checkpoint):
        found = unwrap(content)[0]
        state = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        if not state:
            raise ValueError(f'none of its {len(found)} tensors is called {prefix}… (its keys: {shorten(found)})')
        faults = {
            'missing in the file': [  # old versions of torch do not write counters of batches
                key for key in own if key not in state and not key.endswith('num_batches_tracked')],
            'left over': [key for key in state if key not in own],
            'of another shape': [key for key in state if key in own and own[key].shape != state[key].shape]}
        if any(faults.values()):
            listed = [f'{len(keys)} {kind} ({shorten(keys, 2)})' for kind, keys in faults.items() if keys]
            raise ValueError(
                f'it does not fit {config or type(model).__name__}, and nothing was loaded: '
                + (_explain(content, classes, own) or f'{", ".join(listed)}; build the model as it was trained (depth, '
                   f'channels, number of classes)'))
        check_weights({key: value for key, value in state.items() if own[key].is_floating_point()})
    for key, value in state.items():
        own[key].copy_(value)
    MMLogger.get_current_instance().info(f'{checkpoint}: all {len(state)} tensors of {type(model).__name__} loaded')
    return content


def _explain(content: Mapping, classes: Sequence[str] | None, own: Mapping) -> str | None:
    """Why a checkpoint does not fit a model with these weights, if it is of another kind or of other classes."""
    if any('decoder_pred' in key for key in own):
        if is_pretraining(content) and not any('decoder_pred' in key for key in unwrap(content)[0]):
            return (
                'it is an encoder without a decoder: the weights of neck.… are missing in the file; give the file that '
                'pre-training wrote, e.g. work_dirs/NAME/epoch_N.pth')
    elif any('head' in key for key in own) and is_pretraining(content):
        return (
            'it is a checkpoint of pre-training, without weights of a head; first train a model from it: '
            'python tools/train.py CONFIG --pretrained CHECKPOINT')
    try:
        trained = content['meta']['dataset_meta']['classes']
    except (KeyError, TypeError):
        return None
    if classes and trained and len(trained) != len(classes):
        return (
            f'it was trained on {len(trained)} classes ({shorten(trained)}), the config has {len(classes)} '
            f'({shorten(classes)}); use the config in its work folder, or set the same classes')
    return None


def is_pretraining(content: Mapping) -> bool:
    """Whether a checkpoint holds a masked autoencoder, or nothing but its encoder, in any format."""
    tensors, wrapper = unwrap(content)
    try:
        recognise(tensors, wrapper)
    except ValueError:  # not a ViT of a known format
        return False
    return any('decoder_pred' in key for key in tensors) or not any('head' in key for key in tensors)
