"""Why a checkpoint is not one of a config: what it is of instead, in one sentence."""

from collections.abc import Mapping, Sequence

from mae_mm.checkpoint.files import only_tensors
from mae_mm.checkpoint.formats import DECODER, FORMATS, WRAPPERS, recognise, shorten, strip_wrappers, to_canonical


def is_pretraining(content: Mapping) -> bool:
    """Whether a checkpoint is of a masked autoencoder, or of nothing but its encoder, in any format."""
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    tensors = {strip_wrappers(key): value
               for key, value in only_tensors(content[wrapper] if wrapper else content).items()}
    try:
        known, others = to_canonical(tensors, FORMATS[recognise(tensors, wrapper)])
    except ValueError:  # no ViT of ours
        return False
    parts = {name.split('.')[0] for name in known}
    return not parts.isdisjoint(DECODER) or not (others or 'head' in parts)


def explain_mismatch(content: Mapping, names: Sequence[str] | None, error: str) -> str:
    """What a checkpoint is that could not be loaded.

    Args:
        content: of the file.
        names: the classes of the config's data, where it has some.
        error: what the loader says, for all other cases.
    """
    if names and is_pretraining(content):  # without classes the config is of pre-training, too
        return ('it is one of pre-training, and has no weights of heads; train a model from it: '
                'python tools/train.py CONFIG --pretrained CHECKPOINT')
    meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
    dataset = meta.get('dataset_meta') if isinstance(meta.get('dataset_meta'), Mapping) else {}
    own = list(dataset.get('classes') or dataset.get('CLASSES') or ())
    if own and names and len(own) != len(names):
        return (f'it knows {len(own)} classes ({shorten(own)}), the config {len(names)} ({shorten(names)}); take the '
                'config that it was trained with (it lies beside it in the work folder), or the classes')
    return error
