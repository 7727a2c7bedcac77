"""From a config file to a running Runner: what `tools/train.py` and `tools/test.py` share."""

import atexit
import difflib
import errno
import inspect
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.files import allow_mmengine_objects, read_content, refusal
from mae_mm.datasets.checks import coco
from mae_mm.engine.config_check import check_sections, check_values
from mae_mm.engine.loops.batches import end_workers
from mae_mm.stopping import EXIT_STOPPED, TrainingStopped, leave

# Names that hosts' `_base_` files leave at the top level, keys that Runner reads from its config by name, and what
# tools/ablate.py reads (`transfers`).
HELPER_KEYS = {
    'backend_args', 'bgr_mean', 'bgr_std', 'classes', 'compile', 'crop_size', 'custom_imports', 'data_root',
    'dataset_type', 'find_unused_parameters', 'image_size', 'img_ratios', 'img_scale', 'metainfo', 'model_wrapper_cfg',
    'norm_cfg', 'num_classes', 'rand_increasing_policies', 'runner_type', 'strategy', 'sync_bn', 'test_pipeline',
    'train_pipeline', 'transfers', 'tta_model', 'tta_pipeline', 'val_pipeline', 'vis_backends',
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in the quota, under `ulimit -f`
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
DEMO = 'python tools/make_demo_data.py --out data/demo    (then use a config of configs/demo/)'
LAYOUTS = {
    'ImageFolder': 'a folder of images, flat or nested, any names:  ROOT/…/*.jpg|png|…',
    'ImageNet': 'ROOT/train/<class>/*.JPEG and ROOT/val/<class>/*.JPEG, or ROOT/meta/{train,val}.txt',
    'CustomDataset': 'ROOT/<class>/*.jpg',
    'CocoDataset': 'ROOT/{train,val}2017/*.jpg and ROOT/annotations/instances_{train,val}2017.json',
    'ADE20KDataset': 'ROOT/{images,annotations}/{training,validation}/*.{jpg,png}  (ROOT is ADEChallengeData2016)',
    'BaseSegDataset': 'images in ROOT/<data_prefix.img_path>, label maps in ROOT/<data_prefix.seg_map_path>',
}


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config file, apply `--cfg-options`, take `classes` from a COCO file, refuse unknown keys at the top level.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown key, the message names the nearest valid one; for a file that fails as Python; and as
            `coco.adopt_classes`.
    """
    if not Path(path).is_file():
        near = difflib.get_close_matches(str(path), map(str, Path('configs').rglob('*.py')), n=3)
        raise FileNotFoundError(f'no config file {path}' + (f'; did you mean {" or ".join(near)}?' if near else ''))
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python, which may fail in all ways
        raise ValueError(f'{path} fails: {type(error).__name__}: {error}') from error
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options: {error.args[0]}') from error
    check_keys(cfg)
    check_sections(cfg)
    coco.adopt_classes(cfg)
    return cfg


def check_keys(cfg: Config) -> None:
    """Refuse top-level keys that nothing reads: a misspelt one would be ignored in silence."""
    valid = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | HELPER_KEYS
    for key in cfg:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            raise ValueError(
                f'unknown top-level key {key!r} in {cfg.filename}'
                + (f'; did you mean {near[0]!r}?' if near else '')
                + f' (a helper variable of your own: write `del {key}` at the end of the file)')


def check_schedule(cfg: Config) -> None:
    """Refuse a training that ends before one of its schedulers begins, which mmengine would call begin and end.

    Raises:
        ValueError: naming both keys.
    """
    train_cfg = cfg.get('train_cfg') or {}
    epochs, iters = train_cfg.get('max_epochs'), train_cfg.get('max_iters')
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list) else [schedulers]):
        begin = scheduler.get('begin', 0)
        if epochs is not None and scheduler.get('by_epoch', True) and begin >= epochs:
            way_out = 'param_scheduler.0.end=1 param_scheduler.1.begin=1' if epochs > 1 else 'param_scheduler=[]'
            raise ValueError(
                f'train_cfg.max_epochs={epochs} ends before param_scheduler.{i} begins (begin={begin}); shorten the '
                f'warm-up, too, or leave it out: --cfg-options {way_out}')
        if iters is not None and not scheduler.get('by_epoch', True) and begin >= iters:
            raise ValueError(
                f'train_cfg.max_iters={iters} ends before param_scheduler.{i}.begin={begin}; train longer, or let it '
                f'begin earlier, e.g. --cfg-options param_scheduler.{i}.begin=0')


def check_data(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Look for the files of every data set, and into COCO annotations, before anything is built.

    Raises:
        FileNotFoundError: naming the path, the layout expected, and the command for demo data.
        ValueError, FileNotFoundError: as `coco.check_loader`.
    """
    for loader in loaders:
        for where, dataset in _datasets((cfg.get(loader) or {}).get('dataset'), f'{loader}.dataset'):
            for key, path in _data_paths(dataset):
                if not path.exists():
                    raise FileNotFoundError(missing_data_message(path, dataset.get('type', ''), f'{where}.{key}'))
        coco.check_loader(cfg, loader)


def missing_data_message(path: Path, dataset_type: str, key: str) -> str:
    """One message: the path looked for, the key that it is from, the layout expected, and the way out."""
    layout = LAYOUTS.get(dataset_type.rsplit('.', 1)[-1], f'as {dataset_type} documents it')
    below = '' if key.endswith('.data_root') else '    (below data_root, if that is set)'
    return (
        f'no data at {path.absolute()}  ({key}, {dataset_type})\n'
        f'  expected:   {layout}\n'
        f'  own data:   --cfg-options {key}=PATH{below}\n'
        f'  demo data:  {DEMO}')


def _datasets(dataset: ConfigDict | None, key: str = 'dataset') -> Iterator[tuple[str, ConfigDict]]:
    """A data set's config, or those that it wraps, each with its place in the config."""
    if dataset is None:
        return
    inner = [(f'{key}.datasets.{i}', one) for i, one in enumerate(dataset.get('datasets', []))]
    if 'dataset' in dataset:
        inner = [(f'{key}.dataset', dataset['dataset'])]
    if not inner:
        yield key, dataset
    for where, one in inner:
        yield from _datasets(one, where)


def _data_paths(dataset: ConfigDict) -> Iterator[tuple[str, Path]]:
    """Paths that a data set's config names, each with its key, the root first."""
    root = Path(dataset.get('data_root') or '')
    if any(mark in str(dataset.get('data_root')) for mark in ('://', '*')):  # mae_mm.ImageTar looks for itself
        return
    if dataset.get('data_root'):
        yield 'data_root', root
    if dataset.get('ann_file'):
        yield 'ann_file', root / dataset['ann_file']
    prefixes = dataset.get('data_prefix') or {}
    for key, prefix in prefixes.items() if isinstance(prefixes, dict) else [(None, prefixes)]:
        if prefix:
            yield f'data_prefix.{key}' if key else 'data_prefix', root / prefix


def default_work_dir(config: str) -> str:
    """The config's place below `configs/`, below `work_dirs/`: two configs of one name do not meet in one folder."""
    parts = Path(config).with_suffix('').parts
    below = parts[len(parts) - parts[::-1].index('configs'):] if 'configs' in parts else parts[-1:]
    return str(Path('work_dirs', *below))


def check_file(path: str, flag: str) -> None:
    """Refuse a checkpoint that is not there before anything is built.

    Raises:
        FileNotFoundError: naming the flag.
    """
    if '://' not in path and not Path(path).exists():
        raise FileNotFoundError(f'{flag} {path}: no such file')


def check_readable(path: str, flag: str) -> None:
    """Refuse a checkpoint that is damaged, or holds objects that are not unpickled, before mmengine meets it.

    Raises:
        FileNotFoundError: as `check_file`.
        ValueError: naming the file, and what it holds.
    """
    check_file(path, flag)
    if '://' not in path:
        read_content(path)


def start_from(cfg: Config, checkpoint: str) -> None:
    """`--pretrained`: start the config's `mae_mm.ViT`, or a whole masked autoencoder, from a checkpoint's weights.

    A backbone of another type starts as `mae_mm.PretrainedConv` has it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the model has no backbone.
    """
    check_file(checkpoint, '--pretrained')
    part = cfg.model if cfg.model.type == 'mae_mm.MAE' else _find_vit(cfg.model)
    if part is None and 'backbone' not in cfg.model:
        raise ValueError(f'--pretrained: the model of {cfg.filename} has no backbone to start')
    if part is None:
        cfg.model.backbone.init_cfg = dict(type='mae_mm.PretrainedConv', checkpoint=checkpoint)
    else:
        part.init_cfg = dict(type='mae_mm.Pretrained', checkpoint=checkpoint)


def _find_vit(cfg: object) -> ConfigDict | None:
    """The first config of type `mae_mm.ViT` inside another."""
    if isinstance(cfg, dict):
        if cfg.get('type') == 'mae_mm.ViT':
            return cfg
        cfg = list(cfg.values())
    if isinstance(cfg, list | tuple):
        return next((found for value in cfg if (found := _find_vit(value)) is not None), None)
    return None


def use_autocast(cfg: Config) -> None:
    """`--amp`: bfloat16 autocast on any device; in mmdet of the ViT alone, for mmcv's nms and RoIAlign refuse it."""
    if cfg.get('default_scope') == 'mmdet' and (vit := _find_vit(cfg.model)):
        vit.bf16 = True
        return
    cfg.optim_wrapper.type = 'mae_mm.AutocastOptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fp16'):
        cfg.optim_wrapper.pop(key, None)


def enable_lr_scaling(cfg: Config) -> None:
    """`--auto-scale-lr`.

    Raises:
        ValueError: if the config does not say which batch its lr is meant for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the batch its lr is for')
    cfg.auto_scale_lr.enable = True


def count_effective_batch(runner: Runner) -> None:
    """Let lr scaling see gradient accumulation and repeated views, which mmengine's leaves out of the batch.

    The runner's own settings change, not its config: that is saved, and may be trained from again.
    """
    cfg, factor = runner.cfg, runner.cfg.optim_wrapper.get('accumulative_counts', 1)
    for _, dataset in _datasets((cfg.get('train_dataloader') or {}).get('dataset')):
        factor *= (dataset.get('pipeline') or [{}])[0].get('repeats', 1)
        break  # data sets joined together have one pipeline
    holder, key = (runner.strategy, '_auto_scale_lr') if hasattr(runner, 'strategy') else (runner, 'auto_scale_lr')
    scaling = getattr(holder, key) or {}
    if factor > 1 and scaling.get('enable'):
        scaling = dict(scaling, base_batch_size=scaling['base_batch_size'] / factor)
        setattr(holder, key, scaling)
        runner.logger.info(
            f'lr: a step sees {factor} times the batch of the loader (accumulative_counts, repeats), so that it is '
            f'scaled as for a base batch of {scaling["base_batch_size"]:g} of those')


def adapt_loaders(cfg: Config) -> None:
    """`num_workers=0` alone is enough (persistent workers need some), and only GPUs need pinned memory."""
    for loader in LOADERS:
        if cfg.get(loader) and not torch.cuda.is_available():
            cfg[loader].pin_memory = False
        if (cfg.get(loader) or {}).get('num_workers') == 0:
            cfg[loader].persistent_workers = False
            cfg[loader].pop('prefetch_factor', None)


def start_cpu_group(cfg: Config) -> None:
    """On machines without a GPU, join a gloo group before Runner would insist on a CUDA device."""
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(f'--launcher {cfg.launcher} needs GPUs; on CPU machines use torchrun with --launcher pytorch')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.pop('sync_bn', None)  # SyncBatchNorm takes GPU tensors only
    # Runner would hand the local rank over as the number of a GPU.
    cfg.setdefault('model_wrapper_cfg', dict(type='MMDistributedDataParallel', broadcast_buffers=False))
    cfg.model_wrapper_cfg.device_ids = None


def leave_group() -> None:
    """End a process of several, after a run that went well, without the destructors of its threads and connections.

    Now and then one of them aborts such a process ("terminate called without an active exception", gloo, torch 2.11):
    at the interpreter's end, and after `destroy_process_group` more often still. What Python registered is done.
    """
    if torch.distributed.is_initialized():
        end_workers()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def avoid_static_graph(cfg: Config) -> None:
    """Where gradients accumulate, DistributedDataParallel's static graph fails (torch 2.11): some steps do not sync."""
    if cfg.optim_wrapper.get('accumulative_counts', 1) > 1 and 'model_wrapper_cfg' in cfg:
        cfg.model_wrapper_cfg.pop('static_graph', None)


def build_runner(cfg: Config) -> Runner:
    """The Runner that the config asks for."""
    check_values(cfg)
    if cfg.get('load_from') and not cfg.get('resume'):
        check_readable(cfg.load_from, 'load_from')
    allow_mmengine_objects()
    check_schedule(cfg)
    adapt_loaders(cfg)
    start_cpu_group(cfg)
    avoid_static_graph(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    if cfg.get('optim_wrapper'):
        count_effective_batch(runner)
    return runner


def check_batches(runner: Runner) -> None:
    """Refuse a training set that gives no batch.

    Raises:
        ValueError: naming the number of images and the batch.
    """
    loader = runner.train_dataloader
    if len(loader) == 0:
        raise ValueError(
            f'{len(loader.dataset)} training images for batches of {loader.batch_sampler.batch_size}, and '
            'drop_last=True: not one batch; lower it: --cfg-options train_dataloader.batch_size=N')


def load_weights(runner: Runner, checkpoint: str) -> None:
    """Load a checkpoint of this very model, head and decoder included: a half-loaded one must not be evaluated.

    Raises:
        ValueError: if any weight is missing, left over or of another shape.
    """
    classes = (getattr(runner.test_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    content = load_exactly(runner.model, checkpoint, classes=classes, config=runner.cfg.filename)
    runner.call_hook('after_load_checkpoint', checkpoint=content)  # averaged weights (EMAHook) start as these


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Run `main`; a user's mistake ends with its message alone and exit code 2, Ctrl-C with a hint and 130.

    Mistakes are ValueError, FileNotFoundError, and what constructors and registries do not know. A training that stops
    itself (`TrainingStopped`), or a disk that is full, ends with its message and code 3. `MAE_MM_DEBUG=1` in the
    environment prints the traceback, too.
    """
    logging.raiseExceptions = False  # a line that a full disk does not take would print a traceback of its own
    try:
        main()
        leave_group()
        return
    except TrainingStopped as reason:
        _debug()
        code, message = EXIT_STOPPED, f'stopped: {_own_words(reason)}'
    except SystemExit as stop:
        code, message = stop.code, ''
    except KeyboardInterrupt:
        code, message = 130, 'stopped; the same command with --resume goes on from the newest checkpoint'
    except (ValueError, FileNotFoundError, FileExistsError, TypeError) as error:
        if isinstance(error, TypeError) and 'unexpected keyword argument' not in str(error):
            raise
        _debug()
        code, message = 2, f'error: {_own_words(error)}'
    except (KeyError, pickle.UnpicklingError) as error:
        text = refusal('the file', error) if isinstance(error, pickle.UnpicklingError) else error.args[0]
        if text is None or (isinstance(error, KeyError) and 'registry' not in str(text)):
            raise
        _debug()
        code, message = 2, f'error: {text}'
    except OSError as error:
        if error.errno not in FULL and not isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
            raise
        _debug()
        code, message = 2, f'error: {error}'
        if error.errno in FULL:
            code, message = EXIT_STOPPED, (
                f'stopped: {error}. Make room; the checkpoints written before are intact, and the same command with '
                '--resume goes on from the newest')
    end_workers()
    leave(code, message)


def _own_words(error: Exception) -> str:
    """The message; a loader's worker sends its whole traceback as one, which ends with 'TYPE: message'."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        text = text.strip().splitlines()[-1].partition(': ')[2]
    return text


def _debug() -> None:
    if os.environ.get('MAE_MM_DEBUG'):
        traceback.print_exc()
