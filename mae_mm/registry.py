"""Child registries of scope `mae_mm`: `type='mae_mm.X'` resolves in mmengine, mmpretrain, mmdet and mmseg alike.

mmengine imports this module by name when it first meets the scope, and the `locations` on the first look-up in each
registry, so no config needs `custom_imports`.
"""

from mmengine import registry as root
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=root.MODELS, scope='mae_mm',
    locations=[
        'mae_mm.vit', 'mae_mm.mae', 'mae_mm.partial_decoder', 'mae_mm.masked_conv', 'mae_mm.data_preprocessor',
        'mae_mm.head', 'mae_mm.pyramid'])
DATASETS = Registry(
    'dataset', parent=root.DATASETS, scope='mae_mm', locations=['mae_mm.datasets', 'mae_mm.robustness'])
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='mae_mm', locations=['mae_mm.datasets'])
HOOKS = Registry('hook', parent=root.HOOKS, scope='mae_mm', locations=['mae_mm.hooks'])
METRICS = Registry('metric', parent=root.METRICS, scope='mae_mm', locations=['mae_mm.metrics', 'mae_mm.robustness'])
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, scope='mae_mm', locations=['mae_mm.lars'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='mae_mm', locations=['mae_mm.optim_wrapper'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope='mae_mm',
    locations=['mae_mm.layer_decay'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=root.WEIGHT_INITIALIZERS, scope='mae_mm', locations=['mae_mm.checkpoint'])
LOOPS = Registry('loop', parent=root.LOOPS, scope='mae_mm', locations=['mae_mm.training'])
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, scope='mae_mm', locations=['mae_mm.fsdp'])
FUNCTIONS = Registry('function', parent=root.FUNCTIONS, scope='mae_mm', locations=['mae_mm.training'])
