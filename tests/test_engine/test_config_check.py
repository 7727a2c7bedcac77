"""Mistakes in a config: one line that names the key and the nearest valid name, before the first step."""

from pathlib import Path

import pytest
from helpers import ROOT
from helpers.configs import NAMES, recipe
from helpers.reliability import ALONE, save_images, tiny_config

from mae_mm.datasets.checks.label_maps import check_labels
from mae_mm.engine import reliability
from mae_mm.engine import runner as launch
from mae_mm.engine.config_check import check_values, errors_located

DEMO = str(ROOT / 'configs/demo/mae_pretrain.py')


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images') / 'all')


@pytest.mark.parametrize('name', NAMES)
def test_every_config_passes(name: str) -> None:
    check_values(recipe(name))


@pytest.mark.parametrize(('options', 'message'), [
    ({'optim_wraper': {}}, r"unknown top-level key 'optim_wraper' in .*did you mean 'optim_wrapper'"),
    ({'default_hooks.checkpont.interval': 3},
     r"default_hooks\.checkpont=.* must be dict\(type=.*; did you mean 'checkpoint'"),
    ({'default_hooks.checkpoint': 5}, r'default_hooks\.checkpoint=5 must be dict\(type='),
    ({'param_scheduler.5.end': 3}, r'--cfg-options: Index 5 exceeds'),
    ({'param_scheduler.end': 3}, r'--cfg-options param_scheduler\.end: .* e\.g\. param_scheduler\.0\.end'),
    ({'train_dataloader.dataset.pipeline.0.a.b': 3, 'train_dataloader.dataset.pipeline.size': 3},
     r'dataset\.pipeline is a list; .* train_dataloader\.dataset\.pipeline\.0\.size'),
])
def test_unknown_keys_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch.load_config(DEMO, options)


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.mask_ratio': 75}, r'model\.mask_ratio=75 must be .*in \[0, 1\): for 75 % write 0\.75'),
    ({'model.mask_ratio': '0.75'}, r"model\.mask_ratio='0\.75' must be the fraction"),
    ({'optim_wrapper.optimizer.lr': '1.5e-4x'}, r"optim_wrapper\.optimizer\.lr='1\.5e-4x' must be a number"),
    ({'optim_wrapper.optimizer.lr': -1}, r'optim_wrapper\.optimizer\.lr=-1 must be a number, 0 or more'),
    ({'optim_wrapper.optimizer.lr': float('nan')}, r'optim_wrapper\.optimizer\.lr=nan must be a number'),
    ({'train_dataloader.batch_size': 2.5}, r'train_dataloader\.batch_size=2\.5 must be the number of images'),
    ({'train_dataloader.batch_size': True}, r'train_dataloader\.batch_size=True must be the number of images'),
    ({'train_cfg.max_epochs': '64'}, r"train_cfg\.max_epochs='64' must be a number of epochs"),
])
def test_numbers_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(launch.load_config(DEMO, options))


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.backbone.img_sise': 48}, r"model\.backbone\.img_sise: ViT has no such argument; did you mean 'img_size'"),
    ({'train_dataloader.dataset.pipeline.0.bnds': 4},
     r"pipeline\.0\.bnds: LoadRandomResizedCrop has no such argument; did you mean 'bands'"),
    ({'model.backbone.qqq': 1}, r'model\.backbone\.qqq: ViT has no such argument$'),
    ({'model.neck.img_size': 1}, r'model\.neck\.img_size: MAEDecoder has no such argument'),  # the backbone has it
    ({'model.backbone.patch_size': '8'}, r"model\.backbone: mae_mm\.ViT cannot be built: .*'str'"),
    ({'model.backbone.type': 'mae_mm.VIT'}, r"model\.backbone\.type='mae_mm\.VIT' does not .*'mae_mm\.ViT'"),
    ({'model.type': 'mae_mm.MAEE'}, r"model\.type='mae_mm\.MAEE' does not exist; did you mean 'mae_mm\.MAE'"),
    ({'optim_wrapper.optimizer.weight_deacy': 0.1},
     r"optim_wrapper\.optimizer\.weight_deacy: AdamW has no such argument; did you mean 'weight_decay'"),
    ({'optim_wrapper.optimizer.type': 'Adamw'}, r"optimizer\.type='Adamw' does not exist; did you mean 'AdamW'"),
    ({'train_dataloader.dataset.cash': 'none'}, r"train_dataloader\.dataset\.cash: ImageFolder .* mean 'cache'"),
    ({'train_dataloader.dataset.type': 'ImageFoldr'}, r"dataset\.type='ImageFoldr' .* mean 'mae_mm\.ImageFolder'"),
    ({'train_dataloader.dataset.pipeline.0.sice': 9}, r"pipeline\.0\.sice: .* mean 'size'"),
    ({'train_dataloader.sampler.shufle': True}, r"train_dataloader\.sampler\.shufle: DefaultSampler .* 'shuffle'"),
    ({'train_dataloader.collate_fn.type': 'default_colate'}, r"type='default_colate' does not exist"),
    ({'train_dataloader.pin_memry': True}, r"train_dataloader\.pin_memry: DataLoader .* mean 'pin_memory'"),
    ({'train_cfg.max_epoch': 3}, r"train_cfg\.max_epoch: \w+ has no such argument; did you mean 'max_epochs'"),
    ({'default_hooks.nonfinite.patients': 3}, r"nonfinite\.patients: NonFiniteHook .* mean 'patience'"),
    ({'default_hooks.checkpoint.intervall': 3}, r"checkpoint\.intervall: CheckpointHook .* mean 'interval'"),
    ({'randomness.sed': 3}, r'randomness\.sed: \w+ has no such argument'),
    ({'param_scheduler.0.start_facto': 1}, r"param_scheduler\.0\.start_facto: \w+ .* mean 'start_factor'"),
    ({'param_scheduler.0.type': 'LinearLRR'}, r"param_scheduler\.0\.type='LinearLRR' does not .* mean 'LinearLR'"),
    ({'val_evaluator.type': 'mae_mm.Recon'}, r"val_evaluator\.type='mae_mm\.Recon' does not exist"),
    ({'optim_wrapper.clip_grad.max_nrom': 1}, r'optim_wrapper\.clip_grad\.max_nrom: clip_grad_norm_ has no such'),
])
def test_errors_of_constructors_name_the_key(options: dict, message: str, images: Path, tmp_path: Path) -> None:
    cfg = tiny_config(images, tmp_path, **{**ALONE, **options})
    with pytest.raises(ValueError, match=message) as error:
        train(cfg)
    assert len(str(error.value).splitlines()) == 1


def train(cfg) -> None:
    """As `tools/train.py` does."""
    reliability.make_reliable(cfg)
    with errors_located(cfg):
        runner = launch.build_runner(cfg)
        check_labels(runner, ('train_dataloader', 'val_dataloader'))
        launch.check_batches(runner)
        reliability.train(runner)


def test_other_errors_stay_what_they_are() -> None:
    cfg = launch.load_config(DEMO)
    for error in (KeyError('epoch'), TypeError("unsupported operand type(s) for +: 'int' and 'str'")):
        with pytest.raises(type(error)) as raised, errors_located(cfg):
            raise error
        assert raised.value is error


@pytest.mark.parametrize(('text', 'message'), [
    ('a = (', r'mine\.py fails: SyntaxError: '), ('a = b', r"mine\.py fails: NameError: name 'b' is not defined")])
def test_a_config_that_fails_as_python(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ValueError, match=message):
        launch.load_config(str(tmp_path / 'mine.py'))


def test_errors_of_base_files_name_them(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('a = (')
    (tmp_path / 'mine.py').write_text("_base_ = 'base.py'")
    with pytest.raises(ValueError, match=r'/base\.py fails: SyntaxError'):
        launch.load_config(str(tmp_path / 'mine.py'))
    (tmp_path / 'mine.py').write_text(f"_base_ = '{ROOT}/configs/mae_pretrian.py'")
    with pytest.raises(ValueError, match=r'mine\.py fails: .*did you mean configs/mae_pretrain\.py'):
        launch.load_config(str(tmp_path / 'mine.py'))
