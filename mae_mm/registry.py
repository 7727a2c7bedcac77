"""Child registries of scope `mae_mm`: `type='mae_mm.X'` resolves in mmengine, mmpretrain, mmdet and mmseg alike.

mmengine imports this module by name when it first meets the scope, and the `locations` on the first look-up in each
registry, so no config needs `custom_imports`.
"""

from mmengine import registry as root
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=root.MODELS, scope='mae_mm',
    locations=[
        'mae_mm.models.vit', 'mae_mm.models.mae', 'mae_mm.models.decoders', 'mae_mm.models.masked_conv',
        'mae_mm.models.data_preprocessor', 'mae_mm.models.heads', 'mae_mm.models.necks'])
DATASETS = Registry(
    'dataset', parent=root.DATASETS, scope='mae_mm', locations=['mae_mm.datasets', 'mae_mm.evaluation.robustness'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=root.DATA_SAMPLERS, scope='mae_mm', locations=['mae_mm.datasets.buckets'])
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='mae_mm', locations=['mae_mm.datasets'])
HOOKS = Registry(
    'hook', parent=root.HOOKS, scope='mae_mm',
    locations=[
        'mae_mm.engine.hooks', 'mae_mm.evaluation.knn', 'mae_mm.evaluation.quality', 'mae_mm.visualization.panel_hook'])
METRICS = Registry(
    'metric', parent=root.METRICS, scope='mae_mm',
    locations=['mae_mm.evaluation.metrics', 'mae_mm.evaluation.robustness'])
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, scope='mae_mm', locations=['mae_mm.engine.optim.lars'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='mae_mm', locations=['mae_mm.engine.optim.optim_wrapper'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope='mae_mm',
    locations=['mae_mm.engine.optim.layer_decay'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=root.WEIGHT_INITIALIZERS, scope='mae_mm', locations=['mae_mm.checkpoint'])
LOOPS = Registry('loop', parent=root.LOOPS, scope='mae_mm', locations=['mae_mm.engine.loops'])
STRATEGIES = Registry('strategy', parent=root.STRATEGIES, scope='mae_mm', locations=['mae_mm.engine.fsdp'])
FUNCTIONS = Registry('function', parent=root.FUNCTIONS, scope='mae_mm', locations=['mae_mm.engine.loops'])
