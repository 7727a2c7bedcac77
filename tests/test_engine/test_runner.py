"""What `tools/train.py` and `tools/test.py` promise: messages, flags, resuming, several processes."""

import ast
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, free_port
from helpers.tools import DEMO, run, tiny
from mmengine.config import Config
from mmengine.dist import init_dist
from PIL import Image

from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.engine.exits import exit_on_user_error
from mae_mm.registry import DATASETS, MODELS


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of 24 small JPEGs."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.BICUBIC).save(folder / f'{i:02}.jpg')
    return folder


def test_missing_config_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r'no config file configs/mae_pretrian\.py'):
        launch.load_config('configs/mae_pretrian.py')


@pytest.mark.parametrize('code, text', [
    ('import nowhere_at_all', r"ModuleNotFoundError: No module named 'nowhere_at_all'; .*PYTHONPATH"),
    ('from math import tau_and_a_half', r"ImportError: cannot import name 'tau_and_a_half'"),
])
def test_what_fails_in_custom_imports_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, text: str,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'failing_module.py').write_text(code)
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['failing_module'])")
    with pytest.raises(ValueError, match=rf'config\.py fails: {text}'):
        launch.load_config(str(tmp_path / 'config.py'))


def test_missing_data_in_wrapped_and_annotated_sets(tmp_path: Path) -> None:
    inner = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='annotations/instances_train2017.json')
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=inner))))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    for text in ('annotations/instances_train2017.json', 'CocoDataset', '{train,val}2017', 'make_demo_data.py'):
        assert text in str(error.value)


def test_pretrained_finds_the_vit_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / 'mae.pth'
    with pytest.raises(FileNotFoundError, match='no such file'):
        launch.start_from(Config(dict(model=dict(type='mae_mm.MAE'))), str(file))
    file.touch()
    init_cfg = dict(type='mae_mm.Pretrained', checkpoint=str(file))
    cfg = Config(dict(model=dict(type='X', backbone=dict(type='Pyramid', vit=dict(type='mae_mm.ViT')))))
    launch.start_from(cfg, str(file))
    assert cfg.model.backbone.vit.init_cfg == init_cfg
    cfg = Config(dict(model=dict(type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT'))))
    launch.start_from(cfg, str(file))
    assert cfg.model.init_cfg == init_cfg and 'init_cfg' not in cfg.model.backbone
    cfg = Config(dict(model=dict(type='X', backbone=dict(type='ResNet'))))
    launch.start_from(cfg, str(file))
    assert cfg.model.backbone.init_cfg == dict(type='mae_mm.PretrainedConv', checkpoint=str(file))
    with pytest.raises(ValueError, match='no backbone'):
        launch.start_from(Config(dict(model=dict(type='X'))), str(file))


@pytest.mark.parametrize('runner', [{}, {
    'runner_type': 'FlexibleRunner', 'strategy': dict(type='SingleDeviceStrategy')}])
def test_lr_scaling_counts_accumulation_and_views(images: Path, tmp_path: Path, runner: dict) -> None:
    """In what is trained, not in the config that is saved: trained from again, that would count them twice."""
    cfg = launch.load_config(str(ROOT / DEMO), {
        'train_dataloader.dataset.data_root': str(images), 'val_dataloader.dataset.data_root': str(images),
        'optim_wrapper.accumulative_counts': 4, 'train_dataloader.dataset.pipeline.0.repeats': 2,
        'auto_scale_lr.base_batch_size': 256, 'work_dir': str(tmp_path), 'launcher': 'none', **runner})
    built = launch.build_runner(cfg)
    scaling = built.strategy._auto_scale_lr if runner else built.auto_scale_lr
    assert scaling['base_batch_size'] == 32  # a loader batch of 32 is an effective batch of 256
    assert built.cfg.auto_scale_lr.base_batch_size == cfg.auto_scale_lr.base_batch_size == 256


def test_training_that_ends_in_the_warm_up_is_named() -> None:
    cfg = launch.load_config(str(ROOT / DEMO), {'train_cfg.max_epochs': 2})
    with pytest.raises(ValueError, match=r'max_epochs=2 ends before param_scheduler\.1 begins \(begin=2\)'):
        launch.check_schedule(cfg)


def test_iterations_that_end_before_a_scheduler_begins_are_named() -> None:
    cfg = Config(dict(train_cfg=dict(max_iters=6), param_scheduler=[
        dict(type='LinearLR', by_epoch=False, end=5), dict(type='MultiStepLR', by_epoch=False, begin=100)]))
    with pytest.raises(ValueError, match=r'train_cfg\.max_iters=6 ends before param_scheduler\.1 begins \(begin=100\)'):
        launch.check_schedule(cfg)
    cfg.merge_from_dict({'param_scheduler.1.begin': 0})
    launch.check_schedule(cfg)


def test_a_scheduler_that_ends_before_it_begins_is_named() -> None:
    cfg = launch.load_config(str(ROOT / DEMO), {'param_scheduler.1.end': 2})
    with pytest.raises(ValueError, match=r'param_scheduler\.1\.end=2 must be above its begin=2'):
        launch.check_schedule(cfg)


PHOTOS = "val_dataloader = dict(dataset=dict(data_root='photos'))\n"


@pytest.mark.parametrize('own, options, tested', [
    (PHOTOS, {}, 'photos'),  # the base has test_dataloader = val_dataloader
    ('', {'val_dataloader.dataset.data_root': 'photos'}, 'photos'),
    (PHOTOS, {'val_dataloader.dataset.data_root': 'others'}, 'others'),
    (PHOTOS + "test_dataloader = dict(dataset=dict(data_root='tests'))\n", {}, 'tests'),
    (PHOTOS, {'test_dataloader.dataset.data_root': 'tests'}, 'tests'),
])
def test_tests_follow_the_validation_unless_set(own: str, options: dict, tested: str, tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text(f"_base_ = '{ROOT}/configs/mae_pretrain.py'\n{own}")
    (tmp_path / 'mine.py').write_text("_base_ = ['base.py']\ntrain_cfg = dict(max_epochs=50)\n")
    cfg = launch.load_config(str(tmp_path / 'mine.py'), options)
    assert cfg.test_dataloader.dataset.data_root == tested
    assert cfg.test_dataloader is not cfg.val_dataloader and cfg.test_evaluator == cfg.val_evaluator


def test_a_base_may_be_an_expression(tmp_path: Path) -> None:
    """As docs/hosts.md names the configs of a wheel."""
    (tmp_path / 'mine.py').write_text(
        '_base_ = f"{__import__(\'mae_mm\').CONFIGS}/mae_pretrain.py"\n' + PHOTOS)
    assert launch.load_config(str(tmp_path / 'mine.py')).test_dataloader.dataset.data_root == 'photos'


def test_tests_set_in_one_line_with_the_validation_follow_it(tmp_path: Path) -> None:
    (tmp_path / 'a.py').write_text(
        f"_base_ = '{ROOT}/configs/mae_pretrain.py'\nval_dataloader = test_dataloader = dict(\n"
        "    dataset=dict(data_root='photos'))\nval_evaluator = dict(prefix='mine')")
    cfg = launch.load_config(str(tmp_path / 'a.py'), {'val_dataloader.batch_size': 3})
    assert cfg.test_dataloader.dataset.data_root == 'photos' and cfg.test_dataloader.batch_size == 3
    assert cfg.test_evaluator.prefix == 'mine'


@pytest.mark.parametrize('epochs', [1, 2])
def test_the_advice_on_a_short_schedule_works(epochs: int) -> None:
    options = {'train_cfg.max_epochs': epochs}
    with pytest.raises(ValueError, match='--cfg-options') as error:
        launch.check_schedule(launch.load_config(str(ROOT / DEMO), options))
    for option in str(error.value).split('--cfg-options ')[1].split():
        key, _, value = option.partition('=')
        options[key] = ast.literal_eval(value)
    launch.check_schedule(launch.load_config(str(ROOT / DEMO), options))


def test_lr_scaling_needs_a_base() -> None:
    with pytest.raises(ValueError, match='base_batch_size'):
        launch.enable_lr_scaling(Config(dict(auto_scale_lr=dict(enable=False))))


def test_work_folders_of_configs_of_one_name_differ() -> None:
    assert launch.default_work_dir('configs/mae_pretrain.py') == 'work_dirs/mae_pretrain'
    assert launch.default_work_dir('/x/configs/demo/mae_pretrain.py') == 'work_dirs/demo/mae_pretrain'
    assert launch.default_work_dir('mine.py') == 'work_dirs/mine'


@pytest.mark.parametrize(('error', 'code', 'text'), [
    (KeyboardInterrupt(), 130, '--resume'),
    (TypeError("f() got an unexpected keyword argument 'max_epoch'"), 2, 'max_epoch'),
    (ValueError('In worker.\nTraceback (most recent call last):\n  File x\nDecodeError: a.jpg'), 2, 'error: a.jpg'),
    (OSError(errno.ENOSPC, 'No space left on device', 'scalars.json'), 3, "device: 'scalars.json'. Make room"),
    (OSError(errno.EDQUOT, 'Disk quota exceeded'), 3, 'stopped: [Errno'),
    (PermissionError(errno.EACCES, 'Permission denied', '/work'), 2, "error: [Errno 13] Permission denied: '/work'"),
])
def test_what_ends_a_command(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(fail)
    message = capsys.readouterr().err
    assert stop.value.code == code and text in message and 'Traceback' not in message


@pytest.mark.integration
def test_a_full_disk_under_a_log_ends_with_one_message(images: Path, tmp_path: Path) -> None:
    """A file-size limit stands for it: the log, then scalars.json take no line more."""
    limit = 8 * 1024
    code = f'import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); ' \
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    result = run('-c', code, 'tools/train.py', DEMO, '--work-dir', str(tmp_path), *tiny(
        images, **{'default_hooks.checkpoint.interval': 100, 'custom_hooks': '[]', 'train_cfg.max_epochs': 50,
                   'train_dataloader.dataset.cache': 'none'}))  # the cache is a file, too, and would be the first
    assert result.returncode == 3, result.stderr[-3000:]
    assert 'Logging error' not in result.stderr and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith('stopped: [Errno 27] File too large. Make room')


def test_programming_errors_keep_their_traceback() -> None:
    with pytest.raises(TypeError, match='operand'):
        exit_on_user_error(lambda: 1 + 'a')


@pytest.mark.integration
def test_missing_data_ends_with_one_message_and_code_2() -> None:
    result = run('tools/train.py', 'configs/mae_pretrain.py', '--cfg-options',
                 'train_dataloader.dataset.data_root=/nowhere')
    assert result.returncode == 2
    assert 'no data at /nowhere' in result.stderr and 'make_demo_data.py' in result.stderr
    assert 'Traceback' not in result.stdout + result.stderr


def test_user_errors_end_with_their_message_alone(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    cfg = launch.load_config(str(ROOT / DEMO), {'train_dataloader.dataset.data_root': str(tmp_path)})
    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(lambda: DATASETS.build(cfg.train_dataloader.dataset))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and 'Traceback' not in error


@pytest.mark.parametrize(('options', 'text'), [
    ({'model.mask_ratio': 75}, 'mask_ratio=75'),
    ({'model.backbone.img_size': 50}, '50x50'),
    ({'model.backbone.arch': 'gigantic'}, "'gigantic'"),
])
def test_bad_values_are_named(options: dict, text: str) -> None:
    cfg = launch.load_config(str(ROOT / DEMO))
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=text):
        MODELS.build(cfg.model)


@pytest.mark.integration
def test_train_resume_and_test(images: Path, tmp_path: Path) -> None:
    """Two epochs, then two more from the checkpoint: the same count of steps as four at once, and the same weights."""
    work = tmp_path / 'work'
    first = run('tools/train.py', DEMO, '--work-dir', str(work), *tiny(images, **{'train_cfg.max_epochs': 2}))
    assert first.returncode == 0, first.stderr[-3000:]
    assert (work / 'epoch_2.pth').exists()
    again = run('tools/train.py', DEMO, '--work-dir', str(work), '--resume',
                *tiny(images, **{'train_cfg.max_epochs': 4}))
    assert again.returncode == 0, again.stderr[-3000:]
    epochs = re.findall(r'^epoch (\d)/4  step ', again.stdout, re.MULTILINE)
    assert set(epochs) == {'3', '4'}
    log = next(iter(sorted(work.glob('2*/vis_data/scalars.json'))[-1:]))
    steps = [json.loads(line).get('iter') for line in log.read_text().splitlines()]
    assert max(filter(None, steps)) == 8

    result = run('tools/test.py', DEMO, str(work / 'epoch_4.pth'), '--work-dir', str(work), '--out',
                 str(tmp_path / 'metrics.json'), *tiny(images))
    assert result.returncode == 0, result.stderr[-3000:]
    # The encoder alone is no model to evaluate: nothing half-loaded gets a score.
    encoder = {name: value for name, value in torch.load(work / 'epoch_4.pth', weights_only=False)['state_dict'].items()
               if name.startswith('backbone.')}
    torch.save(dict(state_dict=encoder), tmp_path / 'encoder.pth')
    refused = run('tools/test.py', DEMO, str(tmp_path / 'encoder.pth'), '--work-dir', str(work), *tiny(images))
    assert refused.returncode == 2 and 'masked loss' not in refused.stdout
    assert 'it is an encoder without a decoder' in refused.stderr
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert 0.5 < metrics['recon/loss'] < 3 and 0.9 < metrics['recon/patch_mean'] < 1


def test_batch_larger_than_the_data_is_named(images: Path, tmp_path: Path) -> None:
    cfg = launch.load_config(str(ROOT / DEMO), {'train_dataloader.batch_size': 25, 'train_dataloader.num_workers': 0})
    cfg.train_dataloader.dataset.data_root = str(images)
    cfg.work_dir, cfg.launcher, cfg.log_level = str(tmp_path), 'none', 'ERROR'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    with pytest.raises(ValueError, match='24 training images give no batch of 25'):
        launch.check_batches(launch.build_runner(cfg))


@pytest.mark.integration
def test_two_processes_on_the_cpu(images: Path, tmp_path: Path) -> None:
    """`tools/dist_train.sh` with two gloo processes makes half as many steps an epoch, and one checkpoint."""
    work = tmp_path / 'work'
    result = subprocess.run(
        ['bash', 'tools/dist_train.sh', DEMO, '2', '--work-dir', str(work),
         *tiny(images, **{'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 2})],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        env={**os.environ, 'PORT': str(free_port()), 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
             'PYTHONFAULTHANDLER': '1'})
    assert result.returncode == 0, result.stdout[-9000:]
    assert result.stdout.count('epoch 2/2  step 1/1  loss ') == 1 and 'epoch 2, validation: masked' in result.stdout
    weights = torch.load(work / 'epoch_2.pth', weights_only=False)['state_dict']
    assert not any(key.startswith('module.') for key in weights)


@pytest.mark.parametrize(('hidden', 'refused'), [(None, True), ('-1', False), ('', False), ('0', True)])
def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path, monkeypatch, hidden: str | None, refused: bool) -> None:
    (tmp_path / 'nvidia0').touch()
    monkeypatch.setattr(launch, 'DEVICES', tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if hidden is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    if not refused:
        return launch.prepare_gpu()
    with pytest.raises(ValueError, match=r'nvidia0 is a GPU, .* cannot use it\..*--index-url .*--device cpu'):
        launch.prepare_gpu()


def test_without_a_gpu_nothing_is_refused_and_float32_stays_exact(tmp_path, monkeypatch) -> None:
    (tmp_path / 'nvidiactl').touch()  # the driver's, also where no GPU is given to a container
    monkeypatch.setattr(launch, 'DEVICES', tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    launch.prepare_gpu()
    assert torch.get_float32_matmul_precision() == 'highest'


def test_devices_that_torch_cannot_use_are_named() -> None:
    launch.check_device('cpu')
    for device in ('cuda:99', 'nothing'):
        with pytest.raises(ValueError, match=f'--device {device} cannot be used: '):
            launch.check_device(device)


def test_processes_wait_for_each_other_longer_than_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process does alone, e.g. checks of labels, may take more than NCCL's 10 minutes."""
    cfg = Config(dict(launcher='pytorch', optim_wrapper={}, env_cfg=dict(cudnn_benchmark=True)))
    launch.adapt_to_machine(cfg)
    joined = {}
    monkeypatch.setattr('mmengine.dist.utils._init_dist_pytorch', lambda backend, **options: joined.update(options))
    init_dist(cfg.launcher, **cfg.env_cfg.dist_cfg)
    assert joined['timeout'].total_seconds() == 3600 and cfg.env_cfg.cudnn_benchmark
    cfg.env_cfg.dist_cfg = dict(timeout=60, backend='gloo')
    launch.adapt_to_machine(cfg)
    assert cfg.env_cfg.dist_cfg == dict(timeout=60, backend='gloo')
    alone = Config(dict(launcher='none', optim_wrapper={}))
    launch.adapt_to_machine(alone)
    assert 'env_cfg' not in alone


def test_deterministic_segmentation_on_a_gpu_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(default_scope='mmseg', randomness=dict(deterministic=True)))
    launch.check_deterministic(cfg)  # on a CPU
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(ValueError, match='deterministic=True: the loss of segmentation'):
        launch.check_deterministic(cfg)
    launch.check_deterministic(Config(dict(cfg.to_dict(), default_scope='mmpretrain')))
    launch.check_deterministic(Config(dict(cfg.to_dict(), randomness=dict(seed=0))))
