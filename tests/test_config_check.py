"""Mistakes in a config: one message that names the key and what would be right, before anything is built."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mae_mm import launch
from mae_mm.config_check import check_values, fits, readable

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / 'configs/demo/mae_pretrain.py')


@pytest.mark.parametrize('path', sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py')))
def test_every_config_passes(path: str) -> None:
    check_values(launch.load_config(str(ROOT / path)))


@pytest.mark.parametrize(('options', 'message'), [
    ({'model.mask_ratio': 75}, r'model\.mask_ratio=75: .*in \[0, 1\); for 75 % write 0\.75'),
    ({'model.mask_ratio': '0.75'}, r"model\.mask_ratio='0\.75': want the fraction of patches hidden"),
    ({'optim_wrapper.optimizer.lr': '1.5e-4x'}, r"optim_wrapper\.optimizer\.lr='1\.5e-4x': want a number"),
    ({'optim_wrapper.optimizer.lr': -1}, r'optim_wrapper\.optimizer\.lr=-1: want a number'),
    ({'optim_wrapper.optimizer.lr': float('nan')}, r'optim_wrapper\.optimizer\.lr=nan: want a number'),
    ({'optim_wrapper.optimizer.weight_deacy': 0.1},
     r"optim_wrapper\.optimizer\.weight_deacy: AdamW has no such argument; did you mean 'weight_decay'"),
    ({'optim_wrapper.optimizer.betas': [0.9]}, r'optim_wrapper\.optimizer\.betas=\[0\.9\]: AdamW wants'),
    ({'model.backbone.img_sise': 48}, r"model\.backbone\.img_sise: ViT has no such argument; did you mean 'img_size'"),
    ({'model.backbone.patch_size': '8'}, r"model\.backbone\.patch_size='8': ViT wants a whole number"),
    ({'model.backbone.qqq': 1}, r'model\.backbone\.qqq: ViT has no such argument; it takes arch, img_size'),
    ({'model.norm_pix_loss': 'yes'}, r"model\.norm_pix_loss='yes': MAE wants True or False"),
    ({'model.backbone.type': 'mae_mm.VIT'}, r"model\.backbone\.type='mae_mm\.VIT' does not exist; .*mae_mm\.ViT\?"),
    ({'train_dataloader.batch_size': 2.5}, r'train_dataloader\.batch_size=2\.5: want images for each process'),
    ({'train_dataloader.batch_size': 0}, r'train_dataloader\.batch_size=0: want images for each process'),
    ({'train_dataloader.num_workers': True}, r'train_dataloader\.num_workers=True: want processes'),
    ({'train_dataloader.dataset.cash': 'memory'}, r"dataset\.cash: ImageFolder has no .* mean 'cache'"),
    ({'train_dataloader.dataset.pipeline.0.sice': 9}, r"pipeline\.0\.sice: LoadRandomResizedCrop .* mean 'size'"),
    ({'train_cfg.max_epochs': '64'}, r"train_cfg\.max_epochs='64': want epochs"),
    ({'default_hooks.nonfinite.patients': 3}, r"nonfinite\.patients: NonFiniteHook .* mean 'patience'"),
])
def test_a_mistake_is_named_with_what_would_be_right(options: dict, message: str) -> None:
    cfg = launch.load_config(DEMO, options)
    with pytest.raises(ValueError, match=message) as error:
        launch.build_runner(cfg)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(('value', 'hint', 'want'), [
    (1, int, True), (True, int, False), (1.0, int, False), (1, float, True), ('1', float, False),
    (None, int | None, True),
    ((1, 2), int | tuple[int, int], True), ((1, 2, 3), int | tuple[int, int], False), ([1, 2], tuple[int, int], True),
    (['a'], Sequence[str], True), ([1], Sequence[str], False), ('ab', Sequence[str], False), ({}, str | dict, True),
    (object(), 'anything', True), (1, bool, False), ('x', str, True),
])
def test_fits(value: object, hint: object, want: bool) -> None:
    assert fits(value, hint) is want


def test_types_are_told_in_words() -> None:
    assert readable(int | tuple[int, int] | None) == 'a whole number or tuple[int, int] or None'
