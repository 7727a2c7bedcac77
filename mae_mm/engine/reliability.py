"""What `tools/train.py` does so that no run is lost: parts of mmengine replaced in the config, checkpoints chosen."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mae_mm.engine.config_check import errors_located
from mae_mm.engine.hooks.checkpoint import checkpoint_hook
from mae_mm.engine.resume import broken_part, checkpoints_of, newest_checkpoint, read_training_state
from mae_mm.engine.resumed_settings import changes_without_effect
from mae_mm.stopping import TrainingStopped, UnreadableData

# Drop-in replacements that do the same, and can be stopped anywhere.
LOOPS = dict(EpochBasedTrainLoop='mae_mm.EpochTrainLoop', IterBasedTrainLoop='mae_mm.IterTrainLoop')
HOOKS = dict(
    preemption='mae_mm.PreemptionHook', nonfinite='mae_mm.NonFiniteHook', bad_data='mae_mm.BadDataHook')
LOADERS = ('train_dataloader', 'val_dataloader')


def make_reliable(cfg: Config) -> None:
    """Give any host's config what `configs/mae_pretrain.py` has: resumable loop, checkpoints, and hooks for faults.

    What the config says otherwise stays: other loops, other checkpoint hooks, `default_hooks.NAME=None`. FSDP and
    DeepSpeed (`runner_type`) write sharded checkpoints and keep mmengine's hook.
    """
    loop = cfg.get('train_cfg')
    if not loop or 'runner_type' in cfg:
        return
    if 'type' not in loop:
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch', True) else 'IterBasedTrainLoop'
    loop.type = LOOPS.get(_plain(loop.type), loop.type)
    cfg.setdefault('default_hooks', dict())
    hooks = cfg.default_hooks
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
    for loader in LOADERS:
        if (cfg.get(loader) or {}).get('num_workers'):
            cfg[loader].setdefault('worker_init_fn', dict(type='mae_mm.start_worker'))


def _plain(type_: str | type) -> str:
    """A type's name without the scope of mmengine."""
    return str(getattr(type_, '__name__', type_)).removeprefix('mmengine.')


def resume(cfg: Config, checkpoint: str) -> None:
    """`--resume`: go on from a checkpoint, 'auto' for the newest in the work folder that is not damaged.

    Raises:
        FileNotFoundError: if a named one is not there.
        ValueError: if it is damaged, or all of the work folder are.
    """
    if checkpoint == 'auto':
        found = newest_checkpoint(cfg.work_dir)
        cfg.resume, cfg.load_from = found is not None, str(found) if found else None
        return
    if '://' not in checkpoint:
        if not Path(checkpoint).is_file():
            raise FileNotFoundError(f'--resume {checkpoint}: no such file')
        read_training_state(checkpoint)
        if reason := broken_part(checkpoint):
            raise ValueError(f'--resume {checkpoint}: damaged, {reason}; --resume alone takes the newest good one')
    cfg.resume, cfg.load_from = True, checkpoint


def check_unused(work_dir: str) -> None:
    """Refuse to start a new run among the checkpoints of another: it would overwrite some and go back to others.

    Raises:
        ValueError: with the ways out.
    """
    if found := checkpoints_of(work_dir):
        raise ValueError(
            f'{work_dir} has checkpoints of an earlier run ({found[-1].name}{", …" if len(found) > 1 else ""}): go on '
            f'with it (--resume), start in another folder (--work-dir), or remove them (rm {found[-1].parent}/*.pth)')


def train(runner: Runner) -> None:
    """Train. Where the data cannot be read any more, what was trained so far is saved first.

    Raises:
        TrainingStopped: if the run stops itself, or a loader's worker was killed.
    """
    try:
        with errors_located(runner.cfg):
            runner.train()
    except UnreadableData:  # between two iterations
        hook = checkpoint_hook(runner)
        if hook is not None and runner.iter and get_world_size() == 1:  # others may not have met it
            hook.write_between(runner, runner.iter)
        raise
    except RuntimeError as error:
        if 'DataLoader worker' not in str(error):
            raise
        # Told by a signal, maybe in the middle of a step: the weights are not written.
        raise TrainingStopped(
            f'{str(error).splitlines()[0]} Too little memory is the usual reason: lower train_dataloader.num_workers '
            'or batch_size, then go on from the newest checkpoint with --resume') from error


def check_resume(runner: Runner) -> None:
    """Compare the checkpoint to resume with the model: mmengine would load what fits and go on.

    Changes of the config that it makes ineffective are said.

    All processes take the one that the first has chosen; a shared folder may look different from another machine.

    Raises:
        ValueError: naming weights that are missing, left over or of another shape.
    """
    chosen = [runner._resume, runner._load_from]
    broadcast_object_list(chosen)
    runner._resume, runner._load_from = chosen
    path = runner._load_from
    if not runner._resume or path is None or '://' in path or not isinstance(runner.model, nn.Module):
        return  # FlexibleRunner builds its model later, and mae_mm.FSDPStrategy compares it then
    state = read_training_state(path)
    saved = {name.removeprefix('module.'): tuple(value.shape) for name, value in state['state_dict'].items()}
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differences = [
        f'{name}: {_shape(saved.get(name))} in the file, {_shape(wanted.get(name))} in the model'
        for name in wanted | saved if saved.get(name) != wanted.get(name)]
    if differences:
        rest = f'\n  … and {len(differences) - 3} more' if len(differences) > 3 else ''
        raise ValueError(
            f'--resume {path}: a checkpoint of another model than {runner.cfg.filename} describes\n  '
            + '\n  '.join(differences[:3]) + rest
            + '\nResume with the config and options of the run that wrote it, or start from its weights: --pretrained')
    ignored = changes_without_effect(str(state['meta'].get('cfg', '')), runner.cfg.pretty_text)
    if ignored and state['meta'].get('cfg'):
        runner.logger.warning(
            'WITHOUT EFFECT in a resumed run, whose checkpoint restores optimizer and schedules:\n  '
            + '\n  '.join(ignored) + '\nThe lr goes on as the run began, and stays at its end value after its end. For '
            f'other settings start a new run from these weights: --work-dir NEW --cfg-options load_from={path}')


def _shape(shape: tuple[int, ...] | None) -> str:
    return 'none' if shape is None else 'x'.join(map(str, shape)) or 'a number'
