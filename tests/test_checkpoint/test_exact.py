"""A model from a checkpoint of that very model, and what a checkpoint of another model is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import assert_same, saved
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from torch import nn

from mae_mm.checkpoint.exact import is_pretraining, load_exactly
from mae_mm.models.mae import MAE


def classifier() -> nn.Module:
    """A backbone with a buffer that old versions of torch did not write, and a head for three classes."""
    return nn.ModuleDict(dict(backbone=nn.BatchNorm1d(4), head=nn.Linear(4, 3)))


class Averaging(BaseTTAModel):
    def merge_preds(self, data_samples_list: list) -> list:
        return data_samples_list


@pytest.mark.parametrize('kind', [None, Averaging, MMDistributedDataParallel])
def test_all_weights_are_loaded_through_wrappers(tmp_path: Path, kind: type | None) -> None:
    source, model = classifier(), classifier()
    wrapped = model
    if kind:  # without a process group
        wrapped = kind.__new__(kind)
        nn.Module.__init__(wrapped)
        wrapped.module = model
    state = {f'module.{name}': value for name, value in source.state_dict().items() if 'tracked' not in name}
    content = load_exactly(wrapped, saved(dict(state_dict=state, epoch=7), tmp_path / 'x.pth'))
    assert content['epoch'] == 7
    assert_same(dict(source.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize('change, match', [
    (lambda state: state.pop('head.bias'), r'1 missing in the file \(head\.bias\)'),
    (lambda state: state.update({'neck.w': torch.zeros(1)}), r'1 left over \(neck\.w\)'),
    (lambda state: state.update({'head.weight': torch.zeros(5, 4)}), r'1 of another shape \(head\.weight\)')])
def test_one_fault_and_nothing_is_loaded(tmp_path: Path, change: Callable, match: str) -> None:
    model, state = classifier(), dict(classifier().state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=rf'x\.pth was not loaded: it does not fit my\.py, .*{match}'):
        load_exactly(model, saved(dict(state_dict=state), tmp_path / 'x.pth'), classes=['a', 'b', 'c'], config='my.py')
    assert_same(before, dict(model.state_dict()))


def test_the_reason_is_given(make_mae: Callable[..., MAE], tmp_path: Path) -> None:
    pretrained = saved(dict(state_dict=make_mae().state_dict()), tmp_path / 'mae.pth')
    with pytest.raises(ValueError, match=r'mae\.pth .* a checkpoint of pre-training'):
        load_exactly(classifier(), pretrained)
    encoder = {key[9:]: value for key, value in make_mae().state_dict().items() if key.startswith('backbone.')}
    with pytest.raises(ValueError, match=r'vit\.pth .* an encoder without a decoder'):
        load_exactly(make_mae(), saved(encoder, tmp_path / 'vit.pth'))
    meta = dict(dataset_meta=dict(classes=['cat', 'dog']))
    others = saved(dict(state_dict={'head.weight': torch.zeros(2, 4)}, meta=meta), tmp_path / 'others.pth')
    with pytest.raises(ValueError, match=r'trained on 2 classes \(cat, dog\), the config has 3 \(a, b, c\)'):
        load_exactly(classifier(), others, classes=['a', 'b', 'c'])


def test_pretraining_is_distinguished_from_other_models(make_mae: Callable[..., MAE]) -> None:
    mae = make_mae().state_dict()
    encoder = {key: value for key, value in mae.items() if key.startswith('backbone.')}
    assert is_pretraining(dict(state_dict=mae)) and is_pretraining(dict(state_dict=encoder))
    assert not is_pretraining(dict(state_dict={**encoder, 'roi_head.x': torch.zeros(1)}))
    assert not is_pretraining(dict(state_dict={**encoder, 'head.fc.weight': torch.zeros(2, 2)}))
    assert not is_pretraining(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}))
