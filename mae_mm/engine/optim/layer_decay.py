"""Layer-wise learning-rate decay and the weight-decay rule, the same in every host."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # of batch and instance norms

from mae_mm.models.vit import ViT
from mae_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

TABLES = ('cls_token', 'mask_token', 'pos_embed')  # parameters outside of layers
NORMS = (nn.LayerNorm, nn.GroupNorm, _NormBase)
DEFAULTS = dict(layer_decay_rate=1.0, decayed='weights')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Few, merged parameter groups: fused optimizers run once for each.

    The learning rate of block i (from 0) of a `mae_mm.ViT` with B blocks, wherever it sits in the model, is
    lr * rate ** (B - i), of its embeddings and tokens lr * rate ** (B + 1), of all else lr (BEiT, arXiv:2106.08254,
    as used by MAE, appendix A.1).

    `paramwise_cfg` takes two keys:

    - `layer_decay_rate`, in (0, 1]; 1, the default, gives every layer the same rate.
    - `decayed`, the parameters that weight decay applies to. 'weights', the default: all but biases, norms, position
      tables and tokens. 'all_but_norms': also biases and relative positions, as the release of ViTDet has it for ViT-B
      and L; `mae_mm.LayerNorm2d` in pyramid and heads decays, as its counterpart does there. 'all': everything, as in
      that release for ViT-H.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, {**DEFAULTS, **(paramwise_cfg or {})})
        if unknown := set(self.paramwise_cfg) - set(DEFAULTS):
            raise ValueError(f'paramwise_cfg has {sorted(unknown)}; this constructor takes {", ".join(DEFAULTS)}')
        if not 0 < self.paramwise_cfg['layer_decay_rate'] <= 1:
            raise ValueError(f'layer_decay_rate={self.paramwise_cfg["layer_decay_rate"]} is not in (0, 1]')
        if self.paramwise_cfg['decayed'] not in ('weights', 'all_but_norms', 'all'):
            raise ValueError(
                f"decayed={self.paramwise_cfg['decayed']!r} must be 'weights', 'all_but_norms' or 'all'")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        depths = {name: vit.depth for name, vit in module.named_modules() if isinstance(vit, ViT)}
        rate, decayed = self.paramwise_cfg['layer_decay_rate'], self.paramwise_cfg['decayed']
        norms = {id(param) for layer in module.modules()
                 if isinstance(layer, NORMS) and not isinstance(layer, LayerNorm2d) for param in layer.parameters()}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, param in module.named_parameters():
            if param.requires_grad:
                key = (rate**_layers_above(name, depths), _has_decay(name, param, decayed, id(param) in norms))
                groups.setdefault(key, []).append(param)
        for (lr_scale, has_decay), members in sorted(groups.items()):
            group = dict(params=members, lr=self.base_lr * lr_scale)
            if not has_decay:
                group['weight_decay'] = 0.0
            params.append(group)
            print_log(
                f'parameter group of {len(members)} tensors: lr {group["lr"]:.3g}, '
                f'weight decay {group.get("weight_decay", self.base_wd)}', logger='current')


def _layers_above(name: str, depths: dict[str, int]) -> int:
    """How many decay steps a parameter is away from the top of the model."""
    for prefix, depth in depths.items():
        inside = name.removeprefix(f'{prefix}.') if prefix else name
        if prefix and inside == name:
            continue
        head, *rest = inside.split('.')
        if head == 'blocks':
            return depth - int(rest[0])
        if head in ('patch_embed', 'cls_token', 'pos_embed'):
            return depth + 1
    return 0


def _has_decay(name: str, param: nn.Parameter, decayed: str, in_norm: bool) -> bool:
    """Whether weight decay applies to a parameter."""
    name = name.rsplit('.', 1)[-1]
    if decayed == 'weights':
        return param.ndim > 1 and not any(table in name for table in (*TABLES, 'rel_pos'))
    return decayed == 'all' or not (in_norm or any(table in name for table in TABLES))
