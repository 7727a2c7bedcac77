"""Convolutional backbones from checkpoints: all of the weights, or an error."""

from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from mae_mm.checkpoint.files import only_tensors, read_content
from mae_mm.checkpoint.formats import WRAPPERS, shorten, strip_wrappers
from mae_mm.checkpoint.trust import check_weights, contents_of
from mae_mm.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class PretrainedConv:
    """`init_cfg=dict(type='mae_mm.PretrainedConv', checkpoint=…)` of a backbone in any host.

    Args: as of `load_conv`.
    """

    def __init__(self, checkpoint: str, prefix: str = 'backbone.') -> None:
        self.checkpoint, self.prefix = checkpoint, prefix

    def __call__(self, module: nn.Module) -> None:
        """Load into a backbone while mmengine initialises it."""
        load_conv(module, self.checkpoint, self.prefix)
        if getattr(module, 'zero_init_residual', False):
            module.zero_init_residual = False  # mmpretrain's ResNet would zero its last norms now, loaded or not
        if hasattr(module, '_params_init_info'):
            update_init_info(module, f'mae_mm.PretrainedConv: loaded from {self.checkpoint}')


def load_conv(module: nn.Module, checkpoint: str | Path, prefix: str = 'backbone.') -> None:
    """Load the backbone of a checkpoint (of `mae_mm.MaskedConv`, say) into the same backbone, all weights or none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is nothing under the prefix, or a weight is missing, left over or of another shape.
    """
    content = read_content(checkpoint)[0]
    with contents_of(checkpoint):
        state = _fitting_state(module, content, prefix)
    module.load_state_dict(state)
    print_log(f'{checkpoint}: all {len(state)} tensors of {type(module).__name__} loaded', logger='current')


def _fitting_state(module: nn.Module, content: Mapping, prefix: str) -> dict[str, Tensor]:
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    tensors = only_tensors(content[wrapper] if wrapper else content)
    found = {strip_wrappers(key): value for key, value in tensors.items()}
    state = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    if not state:
        raise ValueError(f'none of its {len(found)} tensors is called {prefix}… (its keys: {shorten(found)})')
    own = module.state_dict()
    faults = {
        'missing in the file': own.keys() - state.keys(), 'left over': state.keys() - own.keys(),
        'of another shape': {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}}
    if any(faults.values()):
        text = ', '.join(f'{len(keys)} {what} ({shorten(sorted(keys), 2)})' for what, keys in faults.items() if keys)
        raise ValueError(
            f'it does not fit {type(module).__name__}, and nothing was loaded: {text}; build the backbone as it was '
            'pre-trained (depth, channels, stages)')
    check_weights({key: value for key, value in state.items() if own[key].is_floating_point()})
    return state
