"""Mistakes in a config: one message that names the key and what would be right, before anything is built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from helpers import ROOT

from mae_mm.engine import reliability
from mae_mm.engine import runner as launch
from mae_mm.engine.config_check import check_values
from mae_mm.engine.signatures import arguments, fits, readable

DEMO = str(ROOT / 'configs/demo/mae_pretrain.py')


@pytest.mark.parametrize('path', sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py')))
def test_every_config_passes(path: str) -> None:
    check_values(launch.load_config(str(ROOT / path)))


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.mask_ratio': 75}, r'model\.mask_ratio=75: .*in \[0, 1\); for 75 % write 0\.75'),
    ({'model.mask_ratio': '0.75'}, r"model\.mask_ratio='0\.75': want the fraction of patches hidden"),
    ({'optim_wrapper.optimizer.lr': '1.5e-4x'}, r"optim_wrapper\.optimizer\.lr='1\.5e-4x': want a number"),
    ({'optim_wrapper.optimizer.lr': -1}, r'optim_wrapper\.optimizer\.lr=-1: want a number of 0 or more'),
    ({'optim_wrapper.optimizer.lr': float('nan')}, r'optim_wrapper\.optimizer\.lr=nan: want a number'),
    ({'optim_wrapper.optimizer.weight_deacy': 0.1},
     r"optim_wrapper\.optimizer\.weight_deacy: AdamW has no such argument; did you mean 'weight_decay'"),
    ({'optim_wrapper.optimizer.betas': [0.9]}, r'optim_wrapper\.optimizer\.betas=\[0\.9\]: AdamW wants'),
    ({'model.backbone.img_sise': 48}, r"model\.backbone\.img_sise: ViT has no such argument; did you mean 'img_size'"),
    ({'model.backbone.patch_size': '8'}, r"model\.backbone\.patch_size='8': ViT wants a whole number"),
    ({'model.backbone.qqq': 1}, r'model\.backbone\.qqq: ViT has no such argument; it takes arch, img_size'),
    ({'model.norm_pix_loss': 'yes'}, r"model\.norm_pix_loss='yes': MAE wants True or False"),
    ({'model.backbone.type': 'mae_mm.VIT'}, r"model\.backbone\.type='mae_mm\.VIT' does not exist; .*mae_mm\.ViT'\?"),
    ({'train_dataloader.batch_size': 2.5}, r'train_dataloader\.batch_size=2\.5: want images for each process'),
    ({'train_dataloader.batch_size': 0}, r'train_dataloader\.batch_size=0: want images for each process'),
    ({'train_dataloader.num_workers': True}, r'train_dataloader\.num_workers=True: want processes'),
    ({'train_dataloader.dataset.cash': 'memory'}, r"dataset\.cash: ImageFolder has no .* mean 'cache'"),
    ({'train_dataloader.dataset.pipeline.0.sice': 9}, r"pipeline\.0\.sice: LoadRandomResizedCrop .* mean 'size'"),
    ({'train_cfg.max_epochs': '64'}, r"train_cfg\.max_epochs='64': want epochs"),
    ({'default_hooks.nonfinite.patients': 3}, r"nonfinite\.patients: NonFiniteHook .* mean 'patience'"),
    # mmengine's own parts; its CheckpointHook would keep the first one until its first save
    ({'default_hooks.checkpoint.intervall': 3}, r"hooks\.checkpoint\.intervall: CheckpointHook .* mean 'interval'"),
    ({'default_hooks.checkpoint.interval': 'often'}, r"interval='often': CheckpointHook wants a whole number"),
    ({'default_hooks.checkpoint.max_keep_ckpts': 'three'}, r"max_keep_ckpts='three': CheckpointHook wants a whole"),
    ({'default_hooks.logger.interval': 'x'}, r"default_hooks\.logger\.interval='x': LoggerHook wants a whole number"),
    ({'default_hooks.checkpont.interval': 3}, r"hooks\.checkpont: no type; did you mean 'default_hooks\.checkpoint'"),
    ({'default_hooks.checkpoint': 5}, r'default_hooks\.checkpoint=5: want dict'),
    ({'custom_hooks': [5]}, r'custom_hooks\.0=5: want dict'),
    ({'custom_hooks': [None]}, r'custom_hooks\.0=None: want dict\(type=…\); to leave it out, give the whole list'),
    ({'param_scheduler': [None]}, r'param_scheduler\.0=None: want dict'),
    ({'train_cfg': 6}, r'train_cfg=6: want dict'),
    ({'train_dataloader.sampler': 5}, r'train_dataloader\.sampler=5: want dict'),
    ({'train_cfg.max_epoch': 3}, r"train_cfg\.max_epoch: EpochTrainLoop .* mean 'max_epochs'"),
    ({'env_cfg.cudnn_benchmrk': True}, r"env_cfg\.cudnn_benchmrk: .* mean 'cudnn_benchmark'"),
    ({'auto_scale_lr.base_batchsize': 3}, r"auto_scale_lr\.base_batchsize: .* mean 'base_batch_size'"),
    ({'randomness.sed': 3}, r"randomness\.sed: .* mean 'seed'"),
    ({'log_processor.window_siz': 3}, r"log_processor\.window_siz: LogProcessor .* mean 'window_size'"),
    ({'optim_wrapper.clip_grad.max_nrom': 1}, r"optim_wrapper\.clip_grad\.max_nrom: .* mean 'max_norm'"),
    ({'optim_wrapper.optimizer.type': 'Adamw'}, r"optimizer\.type='Adamw' does not exist; did you mean 'AdamW'"),
    ({'param_scheduler.0.type': 'LinearLRR'}, r"param_scheduler\.0\.type='LinearLRR' does not .* mean 'LinearLR'"),
    ({'param_scheduler.0.start_facto': 1}, r"param_scheduler\.0\.start_facto: LinearLR .* mean 'start_factor'"),
    ({'param_scheduler.0.end': 'four'}, r"param_scheduler\.0\.end='four': LinearLR wants a whole number"),
    ({'param_scheduler.5.end': 3}, r'--cfg-options: Index 5 exceeds'),
    ({'train_dataloader.dataset.type': 'ImageFoldr'}, r"dataset\.type='ImageFoldr' .* mean 'mae_mm\.ImageFolder'"),
    ({'train_dataloader.sampler.type': 'DefaultSampelr'}, r"type='DefaultSampelr' .* mean 'DefaultSampler'"),
    ({'train_dataloader.sampler.shufle': True}, r"sampler\.shufle: DefaultSampler .* mean 'shuffle'"),
    ({'train_dataloader.collate_fn.type': 'default_colate'}, r"type='default_colate' .* mean 'default_collate'"),
    ({'train_dataloader.batchsize': 3}, r"train_dataloader\.batchsize: DataLoader .* mean 'batch_size'"),
    ({'train_dataloader.pin_memry': True}, r"train_dataloader\.pin_memry: DataLoader .* mean 'pin_memory'"),
    ({'train_dataloader.drop_last': 'yes'}, r"train_dataloader\.drop_last='yes': DataLoader wants True or False"),
    ({'visualizer.vis_backends.0.type': 'LocalVisBackenddd'}, r"type='LocalVisBackenddd' .* mean 'LocalVisBackend'"),
    ({'val_evaluator.type': 'mae_mm.Recon'}, r"val_evaluator\.type='mae_mm\.Recon' .*mae_mm\.ReconstructionMetric"),
    ({'model.backbone.arch': 'bas'}, r"model\.backbone\.arch='bas': ViT wants 'tiny' or 'small' or 'base'"),
])
def test_a_mistake_is_named_with_what_would_be_right(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(DEMO, options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.head.num_clases': 3}, r"model\.head\.num_clases: LinearClsHead .* mean 'num_classes'"),
    ({'model.head.type': 'LinearClsHed'}, r"model\.head\.type='LinearClsHed' .* mean 'LinearClsHead'"),
    ({'val_evaluator.topkk': 1}, r"val_evaluator\.topkk: Accuracy .* mean 'topk'"),
])
def test_mistakes_in_a_hosts_parts(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(str(ROOT / 'configs/demo/classification.py'), options)


def check(config: str, options: dict) -> None:
    """What `tools/train.py` does before anything is built."""
    cfg = launch.load_config(config, options)
    reliability.make_reliable(cfg)
    launch.check_values(cfg)


@pytest.mark.parametrize(('text', 'message'), [
    ('a = (', r'mine\.py fails: SyntaxError: '), ('a = b', r"mine\.py fails: NameError: name 'b' is not defined")])
def test_a_config_that_is_no_python(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ValueError, match=message):
        launch.load_config(str(tmp_path / 'mine.py'))


class Base:
    def __init__(self, a: int, b: str = '') -> None:
        """Takes two."""


class HandsOn(Base):
    def __init__(self, *args, c: float | None = None, **rest) -> None:
        self.d = rest.pop('d', 0)
        super().__init__(*args, **rest)


class Keeps(Base):
    def __init__(self, **rest) -> None:
        super().__init__(1)
        self.rest = rest


class Passes(Base):
    def __init__(self, **rest) -> None:
        super().__init__(**rest)
        print(rest)


def test_keywords_are_followed_to_where_they_go() -> None:
    assert arguments(HandsOn) == ({'c': float | None, 'd': None, 'a': int, 'b': str}, True)
    assert arguments(Keeps) == ({}, False) and arguments(Passes) == ({}, False)


@pytest.mark.parametrize(('value', 'hint', 'want'), [
    (1, int, True), (True, int, False), (1.0, int, False), (1, float, True), ('1', float, False),
    (None, int | None, True),
    ((1, 2), int | tuple[int, int], True), ((1, 2, 3), int | tuple[int, int], False), ([1, 2], tuple[int, int], True),
    (['a'], Sequence[str], True), ([1], Sequence[str], False), ('ab', Sequence[str], False), ({}, str | dict, True),
    (object(), 'anything', True), (1, bool, False), ('x', str, True),
    ('a', Literal['a', 'b'], True), ('c', Literal['a', 'b'], False),
])
def test_fits(value: object, hint: object, want: bool) -> None:
    assert fits(value, hint) is want


def test_types_are_told_in_words() -> None:
    assert readable(int | tuple[int, int] | None) == 'a whole number or tuple[int, int] or None'
