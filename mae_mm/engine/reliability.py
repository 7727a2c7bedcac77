"""What `tools/train.py` does so that no run is lost: it replaces parts of mmengine, and saves before it stops."""

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from mae_mm.engine.hooks.checkpoint import checkpoint_hook
from mae_mm.engine.loops.batches import killed_workers
from mae_mm.stopping import UnreadableData

LOOPS = dict(EpochBasedTrainLoop='mae_mm.EpochTrainLoop', IterBasedTrainLoop='mae_mm.IterTrainLoop')
HOOKS = dict(
    preemption='mae_mm.PreemptionHook', nonfinite='mae_mm.NonFiniteHook', bad_data='mae_mm.BadDataHook')


def make_reliable(cfg: Config) -> None:
    """Give any host's config what `configs/mae_pretrain.py` has: resumable loop, checkpoints, and hooks for faults."""
    loop = cfg.get('train_cfg')
    if not loop or 'runner_type' in cfg:
        return
    if 'type' not in loop:
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch', True) else 'IterBasedTrainLoop'
    loop.type = LOOPS.get(_plain(loop.type), loop.type)
    cfg.setdefault('default_hooks', {})
    hooks = cfg.default_hooks  # a ConfigDict
    hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if hooks.checkpoint and _plain(hooks.checkpoint.type) == 'CheckpointHook':
        hooks.checkpoint.type = 'mae_mm.CheckpointHook'
    for name, hook in HOOKS.items():
        hooks.setdefault(name, dict(type=hook))
    if cfg.get('optim_wrapper') and _plain(cfg.optim_wrapper.get('type', 'OptimWrapper')) == 'OptimWrapper':
        cfg.optim_wrapper.type = 'mae_mm.GuardedOptimWrapper'
    if cfg.get('val_cfg') is not None and _plain(cfg.val_cfg.get('type', 'ValLoop')) == 'ValLoop':
        cfg.val_cfg.type = 'mae_mm.ValLoop'
        cfg.val_cfg.setdefault('replace', cfg.get('default_scope') == 'mmpretrain')
    for loader in ('train_dataloader', 'val_dataloader'):
        if (cfg.get(loader) or {}).get('num_workers'):
            cfg[loader].setdefault('worker_init_fn', dict(type='mae_mm.start_worker'))


def _plain(type_: str | type) -> str:
    """A type's name without the scope of mmengine."""
    return str(getattr(type_, '__name__', type_)).removeprefix('mmengine.')


def train(runner: Runner) -> None:
    """Train; if the data can no longer be read, write a checkpoint before the run stops."""
    try:
        # A signal reports a killed worker, possibly in the middle of a step: the weights are not written.
        with killed_workers('lower train_dataloader.num_workers or batch_size, then continue from the newest '
                            'checkpoint with --resume'):
            runner.train()
    except UnreadableData:  # between two iterations
        if (hook := checkpoint_hook(runner)) and runner.iter and get_world_size() == 1:  # others may not have met it
            hook.write_between(runner, runner.iter)
        raise
