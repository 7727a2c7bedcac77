"""From a config file to a Runner: what tools share before a training or a test begins."""

import ast
import difflib
import logging
import os
from copy import deepcopy
from pathlib import Path
from traceback import walk_tb

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.files import allow_mmengine_objects, read_content
from mae_mm.checkpoint.hub import is_name
from mae_mm.datasets.configs import LOADERS, datasets_of
from mae_mm.engine.config_check import check_keys, check_values, errors_located
from mae_mm.engine.hooks.console import ConsoleHook, ConsoleRunner, simplify_console
from mae_mm.engine.resume import read_settings, read_training_state
from mae_mm.models.precision import native_dtype
from mae_mm.paths import ROOT, find_config

DIST_TIMEOUT = 3600  # seconds that processes wait for each other
DEVICES = Path('/dev')  # where Linux shows GPUs


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config file, apply `--cfg-options`, take `classes` from a COCO file, refuse unknown top-level keys.

    The test data and metrics follow those of the validation unless the file, a base, or an option sets them.
    """
    found = find_config(path)
    if found is None:
        raise FileNotFoundError(f'no config file {path}{_near_configs(str(path))}')
    try:
        cfg = Config.fromfile(found)
    except Exception as error:  # a config is Python, which may fail in all ways
        root = error
        while isinstance(root, ImportError) and isinstance(root.__context__, ImportError):
            root = root.__context__  # mmengine's own message on custom_imports hides the reason
        files = [str(frame.f_locals.get('filename')) for frame, _ in walk_tb(error.__traceback__)]
        where = next((file for file in reversed(files) if file.endswith('.py')), path)  # the innermost: maybe a base
        hint = '; put the folder of your module on PYTHONPATH' if isinstance(root, ModuleNotFoundError) else ''
        if isinstance(root, FileNotFoundError) and str(root.filename).endswith('.py'):  # of _base_
            where, name = path, str(root.filename)
            hint = f' (_base_ is relative to the file that names it){_near_configs(name[name.rfind("configs/"):])}'
        raise ValueError(f'{where} fails: {type(root).__name__}: {root}{hint}') from error
    if str(found).endswith('.py') and tests_follow(found):
        follow_validation(cfg)
    follows = cfg.get('test_dataloader') == cfg.get('val_dataloader') and not any(
        key.startswith('test_') for key in options or {})
    for key in options or {}:
        part, names = cfg._cfg_dict, key.split('.')
        for i, name in enumerate(names):
            if isinstance(part, list) and not name.isdecimal():
                right = '.'.join([*names[:i], '0', *names[i:]])
                raise ValueError(f'--cfg-options {key}: {".".join(names[:i])} is a list; write the index, e.g. {right}')
            try:
                part = part[int(name) if isinstance(part, list) else name]
            except (KeyError, IndexError, TypeError):  # a new key, or below a plain value
                break
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options: {error.args[0]}') from error
    if follows:
        follow_validation(cfg)
    check_keys(cfg)
    return cfg


def tests_follow(path: str | Path) -> bool:
    """Whether the first of a config file and its bases that sets `test_dataloader` sets it to `val_dataloader`."""
    bases: list[str] = []
    for node in ast.parse(Path(path).read_text(encoding='utf-8')).body:
        names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
        if 'test_dataloader' in names:
            return 'val_dataloader' in (*names, ast.unparse(node.value))
        if '_base_' in names:
            bases = Config._get_base_files(str(path))  # the expression may join strings
    own = [Path(path).parent / base for base in bases if '::' not in base]  # the others are of a host
    return any(tests_follow(base) for base in own)


def follow_validation(cfg: Config) -> None:
    """Test on what is validated on."""
    for kind in ('dataloader', 'evaluator'):
        if cfg.get(f'val_{kind}') is not None and cfg.get(f'test_{kind}') is not None:
            cfg[f'test_{kind}'] = deepcopy(cfg[f'val_{kind}'])


def _near_configs(path: str) -> str:
    near = difflib.get_close_matches(path, [str(one.relative_to(ROOT)) for one in ROOT.glob('configs/**/*.py')], n=3)
    return f'; did you mean {" or ".join(near)}?' if near else ''


def check_schedule(cfg: Config) -> None:
    """Refuse a training that ends before one of its schedulers begins; mmengine's error would name neither key."""
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list) else [schedulers]):
        key = 'max_epochs' if scheduler.get('by_epoch', True) else 'max_iters'
        end, begin = (cfg.get('train_cfg') or {}).get(key), scheduler.get('begin', 0)
        if end is not None and begin >= end:
            raise ValueError(
                f'train_cfg.{key}={end} ends before param_scheduler.{i} begins (begin={begin}); train longer, shorten '
                'the warm-up, or keep lr constant: --cfg-options param_scheduler=[]')
        if (own_end := scheduler.get('end')) is not None and begin >= own_end:
            raise ValueError(
                f'param_scheduler.{i}.end={own_end} must be above its begin={begin}: --cfg-options '
                f'param_scheduler.{i}.begin=N or .end=N')


def default_work_dir(config: str) -> str:
    """`work_dirs/` and the config's path below `configs/`, so that two configs of one name get two folders."""
    parts = Path(config).with_suffix('').parts
    below = parts[len(parts) - parts[::-1].index('configs'):] if 'configs' in parts else parts[-1:]
    return str(Path('work_dirs', *below))


def check_file(path: str, flag: str) -> None:
    """Refuse a checkpoint that does not exist before anything is built."""
    if not is_name(path) and not Path(path).exists():
        raise FileNotFoundError(f'{flag} {path}: no such file')


def start_from(cfg: Config, checkpoint: str) -> None:
    """`--pretrained`: start the config's `mae_mm.ViT`, whole autoencoder, or backbone of another type from weights."""
    check_file(checkpoint, '--pretrained')
    part = cfg.model if cfg.model.type == 'mae_mm.MAE' else _find_vit(cfg.model)
    if part is not None:
        part.init_cfg = dict(type='mae_mm.Pretrained', checkpoint=checkpoint)
    elif 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = dict(type='mae_mm.PretrainedConv', checkpoint=checkpoint)
    else:
        raise ValueError(f'--pretrained: the model of {cfg.filename} has no backbone to start')


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
    """`--amp`: mixed precision on any device; in mmdet of the ViT alone, for mmcv's nms and RoIAlign take float32."""
    if cfg.get('default_scope') == 'mmdet' and (vit := _find_vit(cfg.model)):
        vit.bf16 = 'auto'
        return
    if cfg.optim_wrapper.get('type') != 'mae_mm.AutocastOptimWrapper':
        cfg.optim_wrapper.type = 'mae_mm.AutocastOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fp16'):
            cfg.optim_wrapper.pop(key, None)


def settle_precision(cfg: Config) -> list[tuple[int, str]]:
    """Write into the config in which precision the run computes, unless it says so; a resumed run keeps its own.

    Returns lines for the log with their levels: the precision and the reason.
    """
    wrapper, vit = cfg.get('optim_wrapper') or {}, _find_vit(cfg.get('model')) or {}
    if wrapper.get('type') == 'mae_mm.AutocastOptimWrapper':
        holder, key, name = wrapper, 'dtype', 'optim_wrapper.dtype'
    elif vit.get('bf16'):
        holder, key, name = vit, 'bf16', 'backbone.bf16'
    else:
        return []
    native, reason = native_dtype('cuda' if torch.cuda.is_available() else 'cpu')
    best = str(native).removeprefix('torch.') if key == 'dtype' else native == torch.bfloat16
    before, asked = _precision_before(cfg, name), holder.get(key, 'auto')
    holder[key] = asked if asked != 'auto' else best if before is None else before
    if asked != 'auto':
        reason = 'as the config says'
    elif before not in (None, best):
        reason = f'as this run began; for a new run {name}={best}: {reason}'
    lines = [(logging.INFO, f'{name}={holder[key]}: {reason}')]
    if before not in (None, holder[key]):
        lines.append((logging.WARNING, f'THE PRECISION CHANGED: {name} was {before} before this run was resumed'))
    return lines


def _precision_before(cfg: Config, name: str) -> str | bool | None:
    """`optim_wrapper.dtype` or `backbone.bf16` of the run that is resumed; None if there is none."""
    if not cfg.get('resume') or not cfg.get('load_from') or '://' in cfg.load_from:
        return None
    saved = read_settings(read_training_state(cfg.load_from)['meta'].get('cfg') or '')
    if found := [value for key, value in saved.items() if key.endswith(name)]:
        return ast.literal_eval(found[0])
    if not saved or name == 'backbone.bf16':
        return False if saved else None
    return 'bfloat16' if 'AutocastOptimWrapper' in saved.get('optim_wrapper.type', '') else 'float32'  # up to 0.2.0


def enable_lr_scaling(cfg: Config) -> None:
    """`--auto-scale-lr`."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the batch size that lr is meant for')
    cfg.auto_scale_lr.enable = True


def count_effective_batch(runner: Runner) -> None:
    """Scale lr by the whole batch: mmengine ignores gradient accumulation and repeated views. The config stays."""
    factor = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
    for _, dataset in [*datasets_of(runner.cfg, 'train_dataloader')][:1]:  # concatenated data sets have one pipeline
        factor *= (dataset.get('pipeline') or [{}])[0].get('repeats', 1)
    holder, key = (runner.strategy, '_auto_scale_lr') if hasattr(runner, 'strategy') else (runner, 'auto_scale_lr')
    scaling = getattr(holder, key) or {}
    if factor > 1 and scaling.get('enable'):
        base = scaling['base_batch_size'] / factor
        setattr(holder, key, dict(scaling, base_batch_size=base))
        runner.logger.info(f'a step sees {factor} batches: lr is scaled for a base batch of {base:g} images')


def adapt_to_machine(cfg: Config) -> None:
    """Settings that mmengine does not derive."""
    for loader in filter(None, map(cfg.get, LOADERS)):
        if not torch.cuda.is_available():
            loader.pin_memory = False
        if loader.get('num_workers') == 0:
            loader.persistent_workers = False
            loader.pop('prefetch_factor', None)
    if cfg.optim_wrapper.get('accumulative_counts', 1) > 1 and 'model_wrapper_cfg' in cfg:
        cfg.model_wrapper_cfg.pop('static_graph', None)  # fails where some steps do not synchronise (torch 2.11)
    if cfg.get('launcher', 'none') != 'none':  # NCCL's 10 minutes are too few for what one process does, e.g. checks
        environment = cfg.setdefault('env_cfg', {})
        environment['dist_cfg'] = {'timeout': DIST_TIMEOUT, **(environment.get('dist_cfg') or {})}


def check_deterministic(cfg: Config) -> None:
    """Refuse to train deterministically what has no such kernel on a GPU, before it fails in the first step."""
    deterministic = (cfg.get('randomness') or {}).get('deterministic')
    if deterministic and torch.cuda.is_available() and cfg.get('default_scope') == 'mmseg':
        raise ValueError(
            'randomness.deterministic=True: the loss of segmentation (nll_loss2d) has no deterministic kernel on a '
            'GPU; remove it, or train on the CPU: --device cpu')


def prepare_gpu() -> None:
    """Let float32 products on a GPU use TensorFloat-32, and refuse one that this torch cannot use: it would be idle."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision('high')
        return
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1')
    if not hidden and (gpus := sorted(DEVICES.glob('nvidia[0-9]*'))):
        release = torch.__version__.split('+')[0]
        raise ValueError(
            f'{gpus[0]} is a GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it. If '
            'nvidia-smi shows an older CUDA version, or for V100 and older: pip install --force-reinstall '
            f'torch=={release} torchvision --index-url https://download.pytorch.org/whl/cu126. To train on the CPU: '
            '--device cpu, or CUDA_VISIBLE_DEVICES=-1 in the environment')


def check_device(device: str) -> None:
    """`--device`: refuse one that torch cannot use."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # without CUDA, an assertion
        raise ValueError(f'--device {device} cannot be used: {str(error).splitlines()[0]}') from error


def start_cpu_group(cfg: Config) -> None:
    """Without a GPU, join a gloo group: Runner would require a CUDA device."""
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(f'--launcher {cfg.launcher} needs GPUs; on CPU machines use torchrun with --launcher pytorch')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.pop('sync_bn', None)  # SyncBatchNorm takes GPU tensors only
    # Runner would pass the local rank as the index of a GPU.
    cfg.setdefault('model_wrapper_cfg', dict(type='MMDistributedDataParallel', broadcast_buffers=False))
    cfg.model_wrapper_cfg.device_ids = None


def build_runner(cfg: Config) -> Runner:
    """The Runner that a config describes."""
    prepare_gpu()
    check_values(cfg)
    if cfg.get('load_from') and not cfg.get('resume') and '://' not in cfg.load_from:
        read_content(cfg.load_from)  # before mmengine does
    allow_mmengine_objects()
    check_schedule(cfg)
    start_cpu_group(cfg)
    adapt_to_machine(cfg)
    precision = settle_precision(cfg)
    with errors_located(cfg):
        runner = ConsoleRunner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    simplify_console(runner.logger)  # of another type of runner
    runner.register_hook(ConsoleHook())
    if cfg.get('optim_wrapper'):
        count_effective_batch(runner)
    for level, line in precision:
        runner.logger.log(level, line)
    return runner


def check_batches(runner: Runner) -> None:
    """Refuse a training set that gives no batch."""
    loader = runner.train_dataloader  # built here
    if len(loader) == 0:
        raise ValueError(
            f'{len(loader.dataset)} training images give no batch of {loader.batch_sampler.batch_size} '
            '(drop_last=True); lower it: --cfg-options train_dataloader.batch_size=N')


def load_weights(runner: Runner, checkpoint: str) -> None:
    """Load a checkpoint of this very model, head and decoder included: a half-loaded one must not be evaluated."""
    classes = (getattr(runner.test_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    content = load_exactly(runner.model, checkpoint, classes=classes, config=runner.cfg.filename)
    runner.call_hook('after_load_checkpoint', checkpoint=content)  # averaged weights (EMAHook) start as these
